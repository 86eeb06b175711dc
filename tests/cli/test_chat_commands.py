"""The chat without a terminal: what a conversation keeps, and what each command changes, says and refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from chatting import ANSWER, TOOLS, write_caller, write_rambler, write_talker, write_tools
from reciting_model import ENDLESS, THINKING, write_reciting_model

from landrace.cli.chat.commands import COMMANDS, State, message_in, run_command
from landrace.cli.chat.conversation import Conversation
from landrace.cli.chat.settings import NAMES, Display
from landrace.engine import EngineOptions, SamplingParams
from landrace.errors import LandraceError, PromptTooLongError, RequestError
from landrace.model import ServingModel, open_engine

GREEDY = SamplingParams(temperature=0, max_tokens=50)
MakeState = Callable[..., State]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, ServingModel]:
    thinker = write_reciting_model(folder / "thinker", folder / "thinker files", ENDLESS, THINKING)
    paths = {"talker": write_talker(folder), "rambler": write_rambler(folder), "caller": write_caller(folder)}
    options = EngineOptions(cache_tokens=4096)
    return {n: open_engine(str(p), threads=1, options=options) for n, p in {**paths, "thinker": thinker}.items()}


@pytest.fixture
def state(models: dict[str, ServingModel]) -> MakeState:
    def make(name: str = "talker", params: SamplingParams = GREEDY, raw: bool = False) -> State:
        return State(Conversation(models[name], params, raw=raw), Display())

    return make


def told(state: State, line: str) -> str:
    return "\n".join(one if isinstance(one, str) else ": ".join(one) for one in run_command(state, line).told)


def test_a_conversation_goes_on(state: MakeState) -> None:
    talk = state().talk
    turn = talk.ask("Hello")
    assert (talk.said(turn.completion), turn.kept, turn.stopped) == (ANSWER, True, False)
    assert 0 < turn.first_seconds <= turn.seconds
    used = talk.used()
    assert used is not None and used > 0
    talk.ask("Again")
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2
    assert (talk.used() or 0) > used
    talk.clear()
    assert (talk.messages, talk.used()) == ([], 0)


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(state: MakeState) -> None:
    talk = state("rambler").talk
    outputs: list[object] = []
    turn = talk.ask("Hello", outputs.append, lambda: len(outputs) == 7)
    assert (turn.stopped, turn.kept, talk.said(turn.completion).split()) == (True, True, ["word"] * 7)
    assert talk.messages[-1]["content"].split() == ["word"] * 7
    assert talk.ask("More").completion.finish_reason == "length"  # the engine is idle and goes on


def test_an_answer_that_is_stopped_before_it_said_anything_is_not(state: MakeState) -> None:
    talk = state("thinker").talk
    outputs: list[object] = []
    turn = talk.ask("Hello", outputs.append, lambda: len(outputs) == 3)  # it thinks
    assert (turn.stopped, turn.kept, talk.messages) == (True, False, [])
    assert talk.asked
    talk.think("2")
    assert talk.retry().kept
    assert talk.messages[0] == {"role": "user", "content": "Hello"}


def test_what_fails_leaves_the_conversation_as_it_was(state: MakeState) -> None:
    talk = state().talk
    talk.ask("Hello")
    before = list(talk.messages)
    with pytest.raises(PromptTooLongError):
        talk.ask("x" * 1_000_000)
    with pytest.raises(RequestError, match="Unicode"):
        talk.ask("a\udcff")

    def fails(_: object) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        talk.ask("Hello", fails)
    assert talk.messages == before
    assert talk.ask("Hello").kept


def test_retry_answers_again_with_another_seed(state: MakeState) -> None:
    this = state(params=SamplingParams(max_tokens=50, temperature=100.0))
    with pytest.raises(RequestError, match="no message yet"):
        run_command(this, "/retry")
    first = this.talk.ask("Hello").completion
    assert run_command(this, "/retry").next == "retry"
    second = this.talk.retry().completion
    assert first.seed != second.seed
    assert [message["content"] for message in this.talk.messages] == ["Hello", second.parts.content]
    told(this, "/set seed 7")
    assert "a seed is set" in told(this, "/retry")
    assert this.talk.retry().completion.token_ids == this.talk.retry().completion.token_ids


def test_calls_wait_for_their_results(state: MakeState) -> None:
    talk = state("caller").talk
    talk.use_tools(TOOLS)
    talk.ask("How is it?")
    calls = talk.open_calls
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == ["Nis", "Ohrid"]
    talk.give_results(["18 degrees", "dry"])
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [message["content"] for message in talk.messages[2:]] == ["18 degrees", "dry", "Sunny."]
    assert talk.open_calls == []
    before = list(talk.messages)
    talk.ask("And there?")
    talk.drop_calls()
    assert talk.messages == before
    talk.retry()
    assert len(talk.open_calls) == 2


def test_raw_text_has_no_past(state: MakeState) -> None:
    this = state(raw=True)
    assert this.talk.said(this.talk.ask("Hello:").completion) == ANSWER
    assert this.talk.messages == []
    for line in ("/system x", "/tools x", "/think on", "/load x"):
        with pytest.raises(RequestError, match="--raw"):
            run_command(this, line)
    assert "0 tokens used" in told(this, "/show")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Hello", "Hello"),
        ("//etc/hosts", "/etc/hosts"),
        ('"""\n/a\n  b\n"""', "/a\n  b"),
        ('"""x', "x"),
        ("/clear", None),
        ("/", None),
    ],
)
def test_what_is_a_message(line: str, message: str | None) -> None:
    assert message_in(line) == message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/cler", "Did you mean /clear?"),
        ("/", "There is no command /."),
        ("/etc/hosts", "// begins a message"),
        ("/\x1b[2J" + "x" * 500, "There is no command /"),
        ("/clear all", "takes nothing after it"),
        ("/set temperature hot", "temperature must be a number from 0 to 100, not 'hot'"),
        ("/set temperature nan", "temperature must be"),
        ("/set top_p 2", "top_p must be a number from 0 to 1"),
        ("/set top-k 1.5", "top_k must be a whole number"),
        ("/set max_tokens 0", "max_tokens must be at least 1"),
        ("/set seed " + "9" * 4000, "seed must be"),
        ("/set stop " + "x" * 300, "stop string"),
        ("/set stats maybe", "stats is on or off"),
        ("/set temprature 1", "There is no setting 'temprature'"),
        ("/set temprature", "There is no setting 'temprature'"),
        ("/think much", "on, off or a number"),
        ("/think \u00b2", "on, off or a number"),
        ("/save", "name of a file is missing"),
        ("/load", "name of a file is missing"),
        ("/load .", "is no file"),
        ("/load no\0file", "There is no file"),
        ("/load ~nobody-7f3a/x", "There is no file"),
        ("/load /dev/zero", "is no file"),
        ("/tools none.json", "There is no file none.json"),
        ("/schema none.json", "There is no file none.json"),
        ("/save x.json", "Nothing was said yet"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(state: MakeState, line: str, said: str) -> None:
    this = state()
    before = told(this, "/show")
    with pytest.raises(LandraceError) as error:
        run_command(this, line)
    assert said in f"{error.value.message} {error.value.hint}"
    assert told(this, "/show") == before


def test_settings(state: MakeState) -> None:
    this = state()
    for line in ("/set temperature 0.5", "/set top-k 40", "/set seed 3", "/set stop the\\n moon", "/set stats on"):
        assert told(this, line) == ""
    params = this.talk.params
    assert (params.temperature, params.top_k, params.seed, params.stop) == (0.5, 40, 3, ("the\n moon",))
    assert told(this, "/set seed") == "seed: 3"
    shown = told(this, "/set").splitlines()
    assert [line.partition(":")[0] for line in shown] == list(NAMES)
    assert "stats: on" in shown
    told(this, "/set seed off")
    told(this, "/set stop off")
    assert (this.talk.params.seed, this.talk.params.stop) == (None, ())
    assert set(shown) < set(told(this, "/show").splitlines()) | set(shown)


def test_the_system_message(state: MakeState) -> None:
    this = state()
    told(this, '/system """\nBe brief.\nBe kind.\n"""')
    assert told(this, "/system") == "Be brief.\nBe kind."
    this.talk.ask("Hello")
    assert this.talk.whole[0] == {"role": "system", "content": "Be brief.\nBe kind."}
    told(this, "/clear")
    assert told(this, "/system") == "Be brief.\nBe kind."
    told(this, "/system off")
    assert this.talk.system is None


def test_thinking(state: MakeState) -> None:
    this = state("thinker")
    told(this, "/think 3")
    assert (this.talk.params.thinking_budget, this.talk.ask("Is it?").completion.thought_tokens) == (3, 3)
    told(this, "/think off")
    assert told(this, "/think") == "thinking: enable_thinking=False"
    assert this.talk.ask("Is it?").completion.parts.reasoning == ""
    told(this, "/think 2")
    assert (this.talk.variables, told(this, "/think")) == ({}, "thinking: for at most 2 tokens")


def test_saved_and_loaded(state: MakeState, tmp_path: Path) -> None:
    this = state("caller")
    told(this, "/system Be brief.")
    told(this, f"/tools {write_tools(tmp_path)}")
    this.talk.ask("How is it?")
    this.talk.give_results(["18", "dry"])
    file = tmp_path / "my chat.json"
    assert "5 messages are saved" in told(this, f"/save {file}")
    told(this, f"/save {file}")  # again, on itself
    other = state("caller")
    assert told(other, f"/load {file}") == "5 messages are loaded."
    assert (other.talk.whole, other.talk.tools) == (this.talk.whole, this.talk.tools)
    other.talk.ask("And there?")
    assert len(other.talk.open_calls) == 2
    assert not list(tmp_path.glob(".chat-*"))


def test_loading_a_question_lets_it_be_answered(state: MakeState, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([{"role": "user", "content": "Hello"}]))
    this = state()
    assert "/retry answers it" in told(this, f"/load {file}")
    this.talk.retry()
    assert [message["content"] for message in this.talk.messages] == ["Hello", ANSWER]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ('"hello"', "holds no conversation"),
        ('{"mesages": []}', "holds no conversation"),
        ("[]", "one or more messages"),
        ('[{"role": "user"}]', "Message 0 has no content"),
        ("[3]", "Message 0 is not an object"),
        ('[{"role": "user", "content": "\\ud800"}]', "Unicode"),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "f"}]}', "tools[0].function"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_broken_file_says_what_is_wrong_and_the_chat_stays(
    state: MakeState, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(text)
    this = state()
    this.talk.ask("Hello")
    before = (this.talk.whole, this.talk.tools, this.talk.variables)
    with pytest.raises(LandraceError) as error:
        run_command(this, f"/load {file}")
    assert said in error.value.message and str(file) in error.value.message
    assert (this.talk.whole, this.talk.tools, this.talk.variables) == before


def test_saving_spares_what_is_no_conversation(state: MakeState, tmp_path: Path) -> None:
    this = state()
    this.talk.ask("Hello")
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(LandraceError, match="holds no conversation"):
        run_command(this, f"/save {tmp_path / 'notes.md'}")
    assert (tmp_path / "notes.md").read_text() == "mine"
    for name in ("none/x.json", "x\0.json", ""):
        with pytest.raises(LandraceError, match=r"cannot be written|is there already"):
            run_command(this, f"/save {tmp_path}/{name}")
    assert os.listdir(tmp_path) == ["notes.md"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "declares no tools"),
        ('{"a": 1}', "tools must be a list"),
        ('[{"type": "function", "function": {"name": "a b"}}]', "not one word"),
    ],
)
def test_broken_declarations_of_tools(state: MakeState, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tools.json"
    file.write_text(text)
    this = state("caller")
    with pytest.raises(LandraceError) as error:
        run_command(this, f"/tools {file}")
    assert said in error.value.message
    assert this.talk.tools == []


def test_tools_are_declared_and_taken_away(state: MakeState, tmp_path: Path) -> None:
    this = state("caller")
    assert told(this, "/tools") == "There are no tools."
    assert told(this, f"/tools {write_tools(tmp_path)}") == "The model may call weather."
    assert "tools: weather" in told(this, "/show").splitlines()
    told(this, "/tools off")
    assert "<tool_call>" in this.talk.said(this.talk.ask("How is it?").completion)  # no tools, no calls


def test_answers_are_held_to_a_schema(state: MakeState, tmp_path: Path) -> None:
    this = state(params=SamplingParams(max_tokens=200, temperature=1.0, seed=1))
    file = tmp_path / "schema.json"
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    file.write_text(json.dumps(schema))
    told(this, f"/schema {file}")
    answer = json.loads(this.talk.said(this.talk.ask("Hello").completion))
    assert answer in ({"a": 1}, {"a": 2})
    file.write_text('{"type": 3}')
    with pytest.raises(LandraceError, match="cannot be followed"):
        run_command(this, f"/schema {file}")
    assert json.loads(told(this, "/schema")) == schema
    told(this, "/schema off")
    assert this.talk.guide is None


def test_help_names_every_command(state: MakeState) -> None:
    said = told(state(), "/help")
    assert all(f"/{name}" in said for name in COMMANDS)
    assert run_command(state(), "/bye").next == run_command(state(), "/exit").next == "end"
