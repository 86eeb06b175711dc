"""What a row teaches, form by form: what is learned, what is read, what is refused by name and what is only said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from landrace.errors import DataError
from landrace.training.data import ChatRow, ExcludedRow, TextRow, parse_row, read_rows, rows_sha256
from landrace.training.examples import build_examples, row_answers

WHERE = "f, line 1"
ASK, TELL = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def said(**values: object) -> str:
    with pytest.raises(DataError) as caught:
        parse_row(values, WHERE)
    assert caught.value.message.startswith(f"{WHERE}: ")
    return f"{caught.value.message} {caught.value.hint}"


def chat(*turns: dict[str, object], **beside: object) -> ChatRow:
    row = parse_row({"messages": list(turns), **beside}, WHERE)
    assert isinstance(row, ChatRow)
    return row


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
@pytest.mark.parametrize("off", [0, 0.0, False])
def test_a_turn_of_weight_0_is_read_and_not_learned(byte_tokenizer, key, off):
    tokenizer = byte_tokenizer()
    wrong = {"role": "assistant", "content": "wrong", key: off}
    row = chat(ASK, wrong, ASK, {**TELL, key: 1})
    assert row.context_only == {1}
    assert all(key not in message for message in row.messages)
    (answer,) = row_answers(row, tokenizer)
    assert "wrong" in tokenizer.decode(answer.token_ids[: answer.prompt_length])
    assert tokenizer.decode(answer.token_ids[answer.prompt_length :]) == "a"
    _, report = build_examples([row], tokenizer, max_length=1000)
    assert (report.answers, report.context_only) == (1, 1)
    assert rows_sha256([row]) != rows_sha256([chat(ASK, {"role": "assistant", "content": "wrong"}, ASK, TELL)])


@pytest.mark.parametrize("value", [0.5, 2, -1, "half", [0], {"a": 1}])
@pytest.mark.parametrize("key", ["weight", "train"])
def test_other_weights_are_refused_in_turns_and_rows(key, value):
    assert f"'{key}' of message 2" in said(messages=[ASK, {**TELL, key: value}])
    assert f"'{key}' is" in said(messages=[ASK, TELL], **{key: value})
    assert f"'{key}' is" in said(prompt="p", completion="c", **{key: value})


@pytest.mark.parametrize("key", ["mask", "loss_mask", "loss_scale", "train_detail", "label", "score"])
def test_masks_that_are_not_understood_are_refused(key):
    assert f"'{key}' of message 2" in said(messages=[ASK, {**TELL, key: 1}])


def test_weights_that_contradict_or_ask_for_what_is_not_learned():
    assert "both that it is learned" in said(messages=[ASK, {**TELL, "weight": 1, "train": False}])
    assert "only answers are learned" in said(messages=[{**ASK, "weight": 1}, TELL])
    assert "contradict" in said(prompt="p", completion="c", weight=0, train=True)
    assert chat({**ASK, "weight": 0}, TELL).context_only == set()


@pytest.mark.parametrize("off", [{"weight": 0}, {"train": False}, {"weight": "0"}, {"train": "False"}])
def test_a_row_of_weight_0_is_excluded_and_counted(byte_tokenizer, off):
    out = parse_row({"prompt": "p", "completion": "c", **off}, "f, line 7")
    assert isinstance(out, ExcludedRow)
    all_off = parse_row({"messages": [ASK, {**TELL, "weight": 0}]}, "f, line 8")
    examples, report = build_examples([out, chat(ASK, TELL), all_off], byte_tokenizer(), max_length=100)
    assert (report.rows, report.answers, report.excluded, len(examples)) == (3, 1, 2, 1)
    assert report.excluded_rows == ("f, line 7: its weight is 0", "f, line 8: every answer has the weight 0")
    with pytest.raises(DataError, match="2 of 2 have nothing to learn; the first: f, line 7"):
        build_examples([out, all_off], byte_tokenizer(), max_length=100)


@pytest.mark.parametrize("base", [{"prompt": "p", "completion": "c"}, {"messages": [ASK, TELL]}, {"text": "t"}])
@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"label": False}, "KTO"),
        ({"label": None}, "KTO"),
        ({"label": "true"}, "KTO"),
        ({"kto_tag": True}, "KTO"),
        ({"rejected": "no"}, "preference"),
        ({"chosen": "yes"}, "preference"),
        ({"rejected_response": "no"}, "preference"),
        ({"train_on_inputs": True}, "would change what is learned"),
        ({"score": 0.1}, "rankings or rewards"),
        ({"rewards": [1]}, "rankings or rewards"),
        ({"responses": ["a", "b"]}, "rankings or rewards"),
        ({"images": ["a.png"]}, "only text can be learned from"),
        ({"loss_mask": [1]}, "'loss_mask' would change what is learned"),
        ({"labels": [1]}, "'labels' would change what is learned"),
    ],
)
def test_columns_that_change_the_meaning_are_refused_by_name(base, beside, words):
    message = said(**base, **beside)
    (name,) = beside
    assert words in message
    assert f"--map {name}=unused" in message


def test_a_column_set_aside_is_left_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "completion": "c", "label": 3}))
    (row,) = read_rows(path, {"label": "unused"})
    assert row.remarks == ("the column 'unused' is not used",)


def test_columns_that_mean_nothing_are_said_once(byte_tokenizer):
    rows = [parse_row({"prompt": "p", "completion": "c", "id": n, "source": "x"}, WHERE) for n in range(3)]
    rows += [parse_row({"conversations": [{"from": "human", "value": "q"}, {"from": "bard", "value": "a"}]}, WHERE)]
    assert build_examples(rows, byte_tokenizer(), max_length=100)[1].remarks == (
        "the column 'id' is not used (3 of 4 rows)",
        "the column 'source' is not used (3 of 4 rows)",
        "the speaker 'bard' is read as the assistant (1 of 4 rows)",
    )


@pytest.mark.parametrize("role", ["human", "gpt", "Assistant", "narrator", "USER"])
def test_roles_of_other_formats_are_refused_by_name(role):
    assert f"the role of message 2 is '{role}'" in said(messages=[ASK, {"role": role, "content": "x"}, TELL])


def test_speakers_of_sharegpt():
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "a"},
    ]
    row = parse_row({"conversations": turns, "tools": json.dumps([{"name": "f"}])}, WHERE)
    assert [message["role"] for message in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert row.messages[2]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    assert row.tools == ({"type": "function", "function": {"name": "f"}},)
    assert '"narrator", which is no known speaker' in said(conversations=[{"from": "narrator", "value": "x"}])
    assert "system message" in said(conversations=turns, system="another")


@pytest.mark.parametrize(
    "arguments", ['{"port": "Bar"', '["Bar"]', '"Bar"', "", [1], 3, None, '{"x": NaN}', "[" * 100_000]
)
def test_arguments_that_are_no_object_are_refused(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "tide", "arguments": arguments}}
    assert "call 1 of message 2" in said(messages=[ASK, {"role": "assistant", "tool_calls": [call]}])


def test_columns_that_are_null_are_absent_and_a_row_of_them_says_so():
    empty = {"messages": None, "instruction": None, "text": None}
    assert parse_row({"prompt": "p", "completion": "c", **empty}, WHERE).prompt == "p"
    assert isinstance(parse_row({"text": None}, WHERE), ExcludedRow)
    assert "null" in said(messages=None)
    assert "'prompt' is missing" in said(prompt=None)
    assert "'output' is missing" in said(instruction=None)


def test_context_that_a_form_has_no_place_for_is_refused():
    for name, value in (("system", "s"), ("tools", [{"name": "f"}]), ("history", [["q", "a"]]), ("context", "c")):
        assert f"'{name}' does not go with" in said(prompt="p", completion="c", **{name: value})
        assert f"'{name}' does not go with" in said(text="t", **{name: value})
    assert "'input' does not go with" in said(messages=[ASK, TELL], input="x")
    assert (
        parse_row({"prompt": "p", "completion": "c", "system": "", "tools": None, "history": []}, WHERE).prompt == "p"
    )


@pytest.mark.parametrize("part", ["image_url", "image", "input_audio", "video"])
def test_parts_that_are_no_text_are_refused_by_name(part):
    content = [{"type": part, part: "x"}, {"type": "text", "text": "what is it?"}]
    assert f"a part of type '{part}'" in said(messages=[{"role": "user", "content": content}, TELL])


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"content": "x"}, "--map content=text"),
        ({"question": "x", "answer": "y"}, "--map question=prompt --map answer=completion"),
        ({"instruction": "x", "response": "y"}, "--map COLUMN=output"),
        ({"a": 1}, "Rename columns with --map OLD=NEW"),
        ({"instruction": "x", "output": "y", "text": "z"}, "--map text=unused"),
    ],
)
def test_a_row_of_unknown_columns_says_how_to_name_them(columns, hint):
    assert hint in said(**columns)


@pytest.mark.parametrize("bos", [None, "<s>"])
def test_a_text_is_learned_from_its_second_token_to_an_end(byte_tokenizer, bos):
    """Also where it holds the text of a control token: that is text."""
    tokenizer = byte_tokenizer(bos=bos)
    row = parse_row({"text": "ab <|im_end|> c"}, WHERE)
    assert isinstance(row, TextRow)
    (example,), report = build_examples([row], tokenizer, max_length=100)
    text = b"ab <|im_end|> c"
    assert b"".join(map(tokenizer.token_bytes, example.token_ids[bool(bos) : -1])) == text
    assert len(example.token_ids) == len(text) + bool(bos) + 1
    assert example.token_ids[-1] in tokenizer.eos_ids
    assert not tokenizer.eos_ids & set(example.token_ids[:-1])
    assert example.trained == (False, *[True] * (len(example.token_ids) - 1))
    assert report.answers == 1


def test_every_row_that_cannot_be_learned_is_named(byte_tokenizer):
    rows = [
        parse_row({"prompt": "p", "completion": f"c{stop}"}, f"f, line {n}")
        for n, stop in enumerate(["<|im_end|>x", "", "<|im_end|>y"], 1)
    ]
    with pytest.raises(DataError, match=r"f, line 1: the answer contains.*cannot be used: 1; line 3: the same\."):
        build_examples(rows, byte_tokenizer(), max_length=100)


def test_columns_of_a_table_make_the_same_rows_as_objects(tmp_path: Path):
    path = tmp_path / "rows.tsv"
    path.write_text("system\tinstruction\tinput\toutput\tweight\ns\tdo\tthis\tdone\t1\n\tdo\t\tdone\t\n")
    first, second = read_rows(path)
    assert [m["content"] for m in first.messages] == ["s", "do\nthis", "done"]
    assert [m["content"] for m in second.messages] == ["do", "done"]
