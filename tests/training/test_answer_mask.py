"""The loss is on the answer and the token that ends it, whatever the template."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landrace.checkpoints.gguf_file import read_gguf
from landrace.errors import DataError
from landrace.text import encode_chat, load_tokenizer, tokenizer_from_gguf
from landrace.text.chat_template import ChatTemplate
from landrace.text.end_tokens import turn_end_id
from landrace.training.data import ChatRow, CompletionRow
from landrace.training.examples import build_examples, merge_answers, row_answers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONVERSATION = (
    {"role": "system", "content": "You help guests."},
    {"role": "user", "content": "Where is my key?"},
    {"role": "assistant", "content": "In the box: code 4711."},
    {"role": "user", "content": "Hvala! A parking?"},
    {"role": "assistant", "content": "Trong sân sau, miễn phí. 免费。"},
)
ROW = ChatRow("f, line 1", CONVERSATION)
CONTENTS = [message["content"] for message in CONVERSATION if message["role"] == "assistant"]


def trained_texts(tokenizer, example):
    """The text of each run of trained tokens."""
    runs, current = [], []
    for token, trained in zip(example.token_ids, example.trained, strict=True):
        if trained:
            current.append(token)
        elif current:
            runs.append(current)
            current = []
    return [tokenizer.decode(run, skip_special=False) for run in [*runs, current] if run]


def all_trained(tokenizer, row):
    return [text for e in merge_answers(row_answers(row, tokenizer)) for text in trained_texts(tokenizer, e)]


# What each template has the model say around its answer: before it what the generation prompt leaves open, after it the
# stop token. Everything else in the conversation is not trained.
THINK = "<think>\n\n</think>\n\n"
EXPECTED = {
    "ByteDance-Seed-OSS": ("", "<seed:eos>"),
    "DeepSeek-R1-Distill-Qwen-14B": ("", "<｜end▁of▁sentence｜>"),
    "DeepSeek-V3.1-rtp": ("", "<｜end▁of▁sentence｜>"),
    "DeepSeek-V3.1-tool": ("", "<｜end▁of▁sentence｜>"),
    "GLM-4.1V": ("", "<|user|>"),
    "GLM-4.5": ("\n<think></think>\n", "<|user|>"),
    "GLM-4.6": ("\n<think></think>\n", "<|user|>"),
    "GLM-4.7-Flash": ("</think>", "<|user|>"),
    "GLM-5.2": ("</think>", "<|user|>"),
    "HuggingFaceTB-SmolLM3-3B": ("", "<|im_end|>"),
    "Hunyuan-A13B-Instruct": ("", "<|eos|>"),
    "Kimi-K2-Instruct": ("", "<|im_end|>"),
    "Kimi-K2-Thinking": ("<think></think>", "<|im_end|>"),
    "MiniCPM-V-4.6": ("", "<|im_end|>"),
    "MiniCPM3-4B": ("", "<|im_end|>"),
    "MiniCPM4": ("", "<|im_end|>"),
    "MiniMax-M2": ("</think>\n\n", "[e~["),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": None,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": None,
    "Qwen-QwQ-32B": ("", "<|im_end|>"),
    "Qwen-Qwen2.5-7B-Instruct": ("", "<|im_end|>"),
    "Qwen-Qwen3-0.6B": (THINK, "<|im_end|>"),
    "Qwen2-Instruct": ("", "<|im_end|>"),
    "Qwen2.5-Omni": ("", "<|im_end|>"),
    "Qwen3-30B-A3B-Thinking-2507": ("\n</think>\n\n", "<|im_end|>"),
    "Qwen3-30B-A3B": (THINK, "<|im_end|>"),
    "Qwen3-Coder-480B": ("", "<|im_end|>"),
    "Qwen3-Coder": ("", "<|im_end|>"),
    "Qwen3.5-4B": ("\n</think>\n\n", "<|im_end|>"),
    "SmolLM3-ortx": ("", "<|im_end|>"),
    "Yi-Chat": ("", "<|im_end|>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("</think>\n\n", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V3.1": ("", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V3.2": ("", "<｜end▁of▁sentence｜>"),
    "deepseek-ai-DeepSeek-V4": ("", "<｜end▁of▁sentence｜>"),
    "gpt-oss-ortx": ("<|message|>", "<|end|>"),
    "llama-cpp-deepseek-r1": ("</think>\n\n", "<｜end▁of▁sentence｜>"),
    "meta-llama-Llama-3.1-8B-Instruct": ("", "<|eot_id|>"),
    "meta-llama-Llama-3.2-3B-Instruct": ("", "<|eot_id|>"),
    "meta-llama-Llama-3.3-70B-Instruct": ("", "<|eot_id|>"),
    "minimind": ("", "<|im_end|>"),
    "moonshotai-Kimi-K2": ("", "<|im_end|>"),
    "openai-gpt-oss-120b": ("<|channel|>final<|message|>", "<|return|>"),
    "stepfun-ai-Step-3.5-Flash": ("\n</think>\n", "<|im_end|>"),
}
MARK = re.compile(r"<[|｜][^<>\n]{1,30}[|｜]>|<seed:[a-z]+>|\[e~\[|\]~b\]|\]~!b\[")


@pytest.fixture(scope="module")
def templates(shared):
    return {path.stem: path.read_text(encoding="utf-8") for path in (shared / "data/chat_templates").glob("*.jinja")}


def test_no_template_is_forgotten(templates):
    assert set(templates) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_mask_on_template(templates, byte_tokenizer, name):
    source = templates[name]
    specials = sorted(set(MARK.findall(source)) | {"<|begin_of_text|>", "<|im_start|>"})
    before, after = EXPECTED[name] or ("", "<|im_end|>")
    tokenizer = byte_tokenizer(specials, template=source, eos=[after], bos="<|begin_of_text|>")
    named = {"bos_token": "<|begin_of_text|>", "eos_token": after}
    tokenizer.chat_template = ChatTemplate(source, tokens=named, now=lambda: datetime(2026, 1, 2))
    if EXPECTED[name] is None:  # it wants tools
        with pytest.raises(DataError, match="line 1: The chat template cannot write"):
            row_answers(ROW, tokenizer)
        return
    stop = tokenizer.token_id(after)
    assert turn_end_id(tokenizer.chat_template, {after: stop}) in (None, stop)
    assert all_trained(tokenizer, ROW) == [before + content + after for content in CONTENTS]
    for k, answer in zip((2, 4), row_answers(ROW, tokenizer), strict=True):
        assert list(answer.token_ids[: answer.prompt_length]) == encode_chat(tokenizer, CONVERSATION[:k])


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2_path):
    return tokenizer_from_gguf(read_gguf(smollm2_path).metadata)


def test_mask_on_smollm2(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    (example,) = merge_answers(row_answers(ROW, tokenizer))
    assert trained_texts(tokenizer, example) == [content + "<|im_end|>" for content in CONTENTS]
    for k in (2, 4):
        prompt = encode_chat(tokenizer, CONVERSATION[:k])
        assert list(example.token_ids[: len(prompt)]) == prompt
        assert example.trained[len(prompt)] and not example.trained[len(prompt) - 1]


def test_mask_on_smollm2_completion(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    for prompt, completion in (
        ("Q: 2+2?\nA:", " four"),
        ("Q: 2+2?\nA: ", "four"),
        ("Q\n", "\n\nx"),
        ("un", "believable"),
    ):
        (answer,) = row_answers(CompletionRow("f, line 1", prompt, completion), tokenizer)
        assert list(answer.token_ids[: answer.prompt_length]) == tokenizer.encode(prompt)
        trained = answer.token_ids[answer.prompt_length :]
        assert tokenizer.decode(trained, skip_special=False) == completion + "<|im_end|>"


# SmolLM2's vocabulary lacks the bytes of some control characters and of planes without characters.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]) | st.sampled_from("\n\t")
WORDS = st.text(CHARACTERS, min_size=1, max_size=20).filter(lambda text: text.strip() and "<|" not in text)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_any_conversation_trains_its_answers_and_nothing_else(byte_tokenizer, turns):
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    tokenizer = byte_tokenizer()
    (example,) = merge_answers(row_answers(ChatRow("f, line 1", tuple(messages)), tokenizer))
    assert trained_texts(tokenizer, example) == [answer + "<|im_end|>" for _, answer in turns]
    whole = tokenizer.chat_template.render(messages, add_generation_prompt=False)
    assert tokenizer.decode(example.token_ids, skip_special=False) == whole.removesuffix("\n")


@given(WORDS, WORDS)
def test_any_completion_is_trained_exactly(smollm2_tokenizer, prompt, completion):
    tokenizer = smollm2_tokenizer
    (answer,) = row_answers(CompletionRow("f, line 1", prompt, completion), tokenizer)
    assert list(answer.token_ids[: answer.prompt_length]) == tokenizer.encode(prompt)
    trained = answer.token_ids[answer.prompt_length :]
    assert b"".join(tokenizer.token_bytes(token) for token in trained) == f"{completion}<|im_end|>".encode()


def test_completion_starts_with_the_engines_own_prompt(byte_tokenizer):
    tokenizer = byte_tokenizer(bos="<s>")
    (answer,) = row_answers(CompletionRow("f, line 1", "ab", "cd"), tokenizer)
    assert answer.token_ids == (*tokenizer.encode("abcd"), *tokenizer.encode("<|im_end|>", add_bos=False))
    assert answer.prompt_length == 3


def test_a_completion_that_brings_its_stop_token_gets_no_second_one(byte_tokenizer):
    tokenizer = byte_tokenizer()
    once = row_answers(CompletionRow("f, line 1", "a", "b"), tokenizer)
    assert row_answers(CompletionRow("f, line 1", "a", "b<|im_end|>"), tokenizer) == once


def test_a_stop_token_inside_a_completion_is_refused(byte_tokenizer):
    with pytest.raises(DataError, match="line 1: the answer contains the text of a stop token"):
        row_answers(CompletionRow("f, line 1", "a", "b<|im_end|>c"), byte_tokenizer())


@pytest.mark.parametrize("template", ["<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"])
def test_a_stop_token_spelled_out_in_a_chat_is_text(byte_tokenizer, template):
    tokenizer = byte_tokenizer(template=CHATML.replace("<|im_start|>assistant\n", template))
    said = "b<|im_end|>c<|im_start|>"
    row = ChatRow("f, line 1", ({"role": "user", "content": said}, {"role": "assistant", "content": said}))
    (answer,) = row_answers(row, tokenizer)
    control = [i for i in answer.token_ids if i in tokenizer.special_ids]
    assert [tokenizer.token_text(i) for i in control] == ["<|im_start|>", "<|im_end|>"] * 2
    assert answer.token_ids[-1] in tokenizer.eos_ids
    (trained,) = all_trained(tokenizer, row)
    assert trained.endswith(said + "<|im_end|>")
    prompt = encode_chat(tokenizer, row.messages[:1])
    assert list(answer.token_ids[: answer.prompt_length]) == prompt


CALL = {"type": "function", "function": {"name": "unlock", "arguments": '{"door": "4"}'}}
DECLARED = ({"type": "function", "function": {"name": "unlock", "parameters": {"type": "object", "properties": {}}}},)


@pytest.mark.parametrize("name", ["SmolLM2", "MiniCPM4", "Yi-Chat", "Qwen2-Instruct", "deepseek-ai-DeepSeek-V3.1"])
def test_calls_and_tools_that_a_template_does_not_write_are_refused(byte_tokenizer, templates, name):
    tokenizer = byte_tokenizer(template=templates.get(name, CHATML))
    asked = {"role": "user", "content": "Open 4"}
    called = ChatRow("f, line 1", (asked, {"role": "assistant", "content": None, "tool_calls": [CALL]}))
    if name != "deepseek-ai-DeepSeek-V3.1":
        with pytest.raises(DataError, match=r"line 1: The chat template leaves out tool call 0 of message 1"):
            row_answers(called, tokenizer)
    told = ChatRow("f, line 1", (asked, {"role": "assistant", "content": "Done."}), DECLARED)
    with pytest.raises(DataError, match=r"line 1: The chat template leaves out the tool 'unlock'"):
        row_answers(told, tokenizer)


def test_unknown_roles_are_refused_by_name(byte_tokenizer, templates):
    tokenizer = byte_tokenizer(template=templates["Qwen-Qwen3-0.6B"])
    row = ChatRow("f, line 1", ({"role": "human", "content": "a"}, {"role": "assistant", "content": "b"}))
    with pytest.raises(DataError, match=r"line 1: The chat template leaves out message 0 \(role 'human'\)"):
        row_answers(row, tokenizer)


def test_arguments_given_as_text_are_learnt_as_an_object(byte_tokenizer, templates):
    tokenizer = byte_tokenizer(template=templates["Qwen-Qwen2.5-7B-Instruct"])
    asked = {"role": "user", "content": "Open 4"}
    row = ChatRow("f, line 1", (asked, {"role": "assistant", "content": None, "tool_calls": [CALL]}), DECLARED)
    (called,) = all_trained(tokenizer, row)
    assert json.loads(called.partition("\n")[2].rpartition("\n")[0])["arguments"] == {"door": "4"}


@pytest.mark.parametrize("content", ["    return x", "Yes.\n", " a "])
def test_an_answer_that_the_template_trims_is_counted_and_named(byte_tokenizer, content):
    trims = CHATML.replace("m.content", "m.content | trim")
    row = ChatRow("f, line 1", ({"role": "user", "content": "a"}, {"role": "assistant", "content": content}))
    _, report = build_examples([row], byte_tokenizer(template=trims), max_length=200)
    assert (report.trimmed, report.trimmed_rows) == (1, ("f, line 1",))
    _, report = build_examples([row], byte_tokenizer(), max_length=200)
    assert (report.trimmed, report.trimmed_rows) == (0, ())


def test_an_empty_answer_is_refused(byte_tokenizer):
    row = ChatRow("f, line 1", ({"role": "user", "content": "a"}, {"role": "assistant", "content": None}))
    with pytest.raises(DataError, match="line 1: an assistant's turn is empty"):
        row_answers(row, byte_tokenizer())


def test_sentencepiece_answers_get_no_second_space(shared):
    tokenizer = load_tokenizer(shared / "data/tokenizers/llama2")
    tokenizer.conventions = replace(tokenizer.conventions, eos_ids=frozenset({2}))  # </s>; the folder has no config
    for prompt, completion in (
        ("Answer:", " blue"),
        ("Answer: ", "blue"),
        ("Answer:\n", "blue sky"),
        ("<s>[INST] x [/INST]", "y"),
    ):
        (answer,) = row_answers(CompletionRow("f, line 1", prompt, completion), tokenizer)
        assert list(answer.token_ids[: answer.prompt_length]) == tokenizer.encode(prompt)
        ids = answer.token_ids[answer.prompt_length : -1]
        assert b"".join(tokenizer.token_bytes(token) for token in ids) == completion.encode()
        assert answer.token_ids[-1] in tokenizer.eos_ids


OPEN_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].strip() }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("message", "trained"),
    [
        ({"content": "Yes."}, "</think>\n\nYes.<|im_end|>"),
        ({"content": "Yes.", "reasoning_content": "Easy."}, "Easy.\n</think>\n\nYes.<|im_end|>"),
        ({"content": "<think>\nEasy.\n</think>\n\nYes."}, "Easy.\n</think>\n\nYes.<|im_end|>"),
    ],
)
def test_an_open_thought_is_closed_before_the_answer(byte_tokenizer, message, trained):
    tokenizer = byte_tokenizer(template=OPEN_THOUGHT)
    row = ChatRow("f, line 1", ({"role": "user", "content": "<think>?"}, {"role": "assistant", **message}))
    assert all_trained(tokenizer, row) == [trained]
    assert build_examples([row], tokenizer, max_length=200)[1].joined == 1


REFUSED = {
    "drops the thought": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "leaves out the assistant's reasoning",
    ),
    "changes the content": (
        "{% for m in messages %}{{ m.role }}: {{ m.content | replace('Yes', 'No') }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "changes the assistant's content",
    ),
    "another prompt": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}bot: {% endif %}",
        "generation prompt is not what it renders",
    ),
    "raises": ("{{ raise_exception('no') }}", "chat template refuses these messages"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_would_teach_something_else_is_refused(byte_tokenizer, name):
    template, said = REFUSED[name]
    answer = {"role": "assistant", "content": "Yes.", "reasoning_content": "Easy."}
    with pytest.raises(DataError) as caught:
        row_answers(ChatRow("f, line 1", ({"role": "user", "content": "x"}, answer)), byte_tokenizer(template=template))
    assert caught.value.message.startswith("f, line 1: ") and said in caught.value.message


def test_chat_without_template_and_tokenizer_without_end(byte_tokenizer):
    with pytest.raises(DataError, match="no chat template"):
        row_answers(ROW, byte_tokenizer(template=None))
    with pytest.raises(DataError, match="no end-of-sequence token"):
        row_answers(CompletionRow("f, line 1", "a", "b"), byte_tokenizer(template=None, eos=()))


def test_turns_that_a_template_rewrites_become_examples_of_their_own(byte_tokenizer, templates):
    tokenizer = byte_tokenizer(template=templates["Qwen-Qwen3-0.6B"])
    examples, report = build_examples([ROW], tokenizer, max_length=1000)
    assert len(examples) == report.answers == 2 and report.split_rows == 1
    examples, report = build_examples([ROW], byte_tokenizer(), max_length=1000)
    assert len(examples) == 1 and report.answers == 2 and report.split_rows == 0


def test_tools_reach_the_template(byte_tokenizer, templates):
    tokenizer = byte_tokenizer(template=templates["Qwen-Qwen2.5-7B-Instruct"])
    tool = {"type": "function", "function": {"name": "unlock", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "function": {"name": "unlock", "arguments": {"door": "4"}}}
    row = ChatRow(
        "f, line 1",
        (
            {"role": "user", "content": "Open 4"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "done"},
            {"role": "assistant", "content": "It is open."},
        ),
        (tool,),
    )
    called, said = all_trained(tokenizer, row)
    assert called.startswith("<tool_call>") and called.endswith("</tool_call><|im_end|>")
    assert json.loads(called.partition("\n")[2].rpartition("\n")[0])["arguments"] == {"door": "4"}
    assert said == "It is open.<|im_end|>"
    assert '"name": "unlock"' in tokenizer.decode(row_answers(row, tokenizer)[0].token_ids)


def test_too_long_answers_are_counted_and_named(byte_tokenizer):
    tokenizer = byte_tokenizer()
    rows = [CompletionRow(f"f, line {n}", "a" * n, "b") for n in range(1, 11)]
    examples, report = build_examples(rows, tokenizer, max_length=5)
    assert [len(example.token_ids) for example in examples] == [3, 4, 5]
    assert (report.rows, report.answers, report.too_long) == (10, 3, 7)
    assert report.too_long_rows[0] == "f, line 4"
    with pytest.raises(DataError, match="All 10 answers are longer than max_length"):
        build_examples(rows, tokenizer, max_length=2)


def test_a_long_conversation_keeps_the_turns_that_fit(byte_tokenizer):
    tokenizer = byte_tokenizer()
    first = row_answers(ROW, tokenizer)[0]
    examples, report = build_examples([ROW], tokenizer, max_length=len(first.token_ids))
    assert report.too_long == 1 and [e.token_ids for e in examples] == [first.token_ids]


def test_stop_token_is_the_templates_end_of_turn(byte_tokenizer):
    tokenizer = byte_tokenizer(eos=("<|zero|>", "<|im_end|>"), specials=("<|zero|>", "<|im_start|>", "<|im_end|>"))
    assert turn_end_id(tokenizer.chat_template, {"<|im_end|>": 257}) == 257
    (answer,) = row_answers(CompletionRow("f, line 1", "a", "b"), tokenizer)
    assert tokenizer.decode(answer.token_ids[-1:], skip_special=False) == "<|im_end|>"
