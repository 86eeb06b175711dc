"""Thoughts: told apart, counted, and ended when their budget is spent, whatever else is going on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from reciting_model import ENDLESS, THINKING, write_reciting_model

from landrace.engine import Completion, EngineOptions, Request, SamplingParams
from landrace.errors import RequestError
from landrace.model import ServingModel, open_engine
from landrace.text import ChatTemplate, Tokenizer, chat_prompt
from landrace.text.answers import AnswerForm, answer_form
from landrace.text.answers.grammar import REASONING, Thought
from landrace.text.answers.grammars import PLAIN
from landrace.text.thinking_switches import switched, with_effort

USER = [{"role": "user", "content": "Is it?"}]
END = "\n</think>\n\n"
Opened = Callable[..., ServingModel]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    path = tmp_path_factory.mktemp("reciting")
    folder = write_reciting_model(path / "model", path / "extras", ENDLESS, THINKING, mtp=True)
    names = {"itself": str(folder)}

    def opened(draft: str | None = None, **options: Any) -> ServingModel:
        return open_engine(str(folder), options=EngineOptions(draft=names.get(draft or "", draft), **options))

    return opened


@pytest.fixture(scope="module")
def slow_to_end(tmp_path_factory: pytest.TempPathFactory) -> ServingModel:
    """Its thought is two tokens long, and the mark that ends it three."""
    path = tmp_path_factory.mktemp("slow")
    chains = [[":", "<think>", " Hm", " So", "</", "think", ">", "Sure", "."], ["\n", "Sure"]]
    return open_engine(str(write_reciting_model(path / "model", path / "extras", chains, THINKING)))


def request(serving: ServingModel, name: str = "r", **params: Any) -> Request:
    tokenizer = serving.model.tokenizer
    prompt = chat_prompt(tokenizer, USER)
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": 40, **params})
    return Request(name, tuple(prompt.token_ids), sampling, answer=answer_form(tokenizer, prompt.text))


def ask(serving: ServingModel, **params: Any) -> Completion:
    return serving.engine.generate([request(serving, **params)])[0]


@pytest.mark.parametrize("budget", [0, 1, 2, 7])
def test_a_spent_budget_ends_the_thought_as_the_family_does(opened: Opened, budget: int) -> None:
    serving = opened()
    answer = ask(serving, thinking_budget=budget)
    thought = (" Hm So" * 4).split(" ")[1 : budget + 1]
    assert answer.text == f"<think>{''.join(f' {word}' for word in thought)}{END}Sure."
    assert (answer.parts.reasoning, answer.parts.content) == (" ".join(thought), "Sure.")
    assert answer.thought_tokens == budget
    assert answer.finish_reason == "stop"


def test_without_a_budget_it_thinks_on(opened: Opened) -> None:
    answer = ask(opened())
    assert answer.finish_reason == "length"
    assert (answer.parts.content, answer.thought_tokens) == ("", 39)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}, {"logprobs": 2}])
@pytest.mark.parametrize(
    "options",
    [{"draft": "ngram"}, {"draft": "mtp"}, {"draft": "itself"}, {"max_step_tokens": 8, "max_running": 4}],
)
def test_drafts_and_neighbours_change_nothing(opened: Opened, params: dict[str, Any], options: dict[str, Any]) -> None:
    budgets = (0, 1, 5, 6, 21)
    plain = opened()
    alone = [ask(plain, thinking_budget=budget, **params) for budget in budgets]
    serving = opened(**options)
    requests = [request(serving, str(n), thinking_budget=n, **params) for n in budgets]
    together = serving.engine.generate([*requests, request(serving, "stranger", **params)])
    for one, other in zip(alone, together, strict=False):
        assert other.token_ids == one.token_ids
        assert other.logprobs == one.logprobs
        assert other.parts == one.parts
    if "draft" in options and not params:
        assert sum(one.accepted_tokens for one in together) > 0


@pytest.mark.parametrize(
    ("budget", "said", "n_thoughts"),
    [
        (1, f" Hm{END}Sure.", 1),
        (2, f" Hm So{END}Sure.", 2),
        (3, " Hm So</think>\n\nSure.", 2),
        (4, " Hm So</think>\n\nSure.", 2),
        (5, " Hm So</think>Sure.", 2),
        (None, " Hm So</think>Sure.", 2),
    ],
)
def test_a_mark_that_the_model_has_begun_is_finished(
    slow_to_end: ServingModel, budget: int | None, said: str, n_thoughts: int
) -> None:
    answer = ask(slow_to_end, thinking_budget=budget)
    assert answer.text == f"<think>{said}"
    assert (answer.parts.content, answer.thought_tokens) == ("Sure.", n_thoughts)


def test_forced_tokens_have_their_own_logprobs(opened: Opened) -> None:
    answer = ask(opened(), thinking_budget=3, logprobs=0)
    assert [entry.token_id for entry in answer.logprobs] == list(answer.token_ids)
    assert min(entry.logprob for entry in answer.logprobs) < -5


def test_a_budget_needs_thoughts(opened: Opened) -> None:
    serving = opened()
    with pytest.raises(RequestError, match="thinking_budget"):
        serving.engine.add(Request("r", (1,), SamplingParams(thinking_budget=3)))
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(RequestError, match="thinking_budget"):
            SamplingParams(thinking_budget=wrong)  # type: ignore[arg-type]


def test_a_stop_text_ends_a_thought_too(opened: Opened) -> None:
    answer = ask(opened(), stop=(" So",))
    assert (answer.finish_reason, answer.parts.reasoning) == ("stop", "Hm")


def forced(tokenizer: Tokenizer, form: AnswerForm, budget: int, chosen: Sequence[str]) -> str:
    """What an answer becomes of which a model would choose these tokens."""
    from landrace.engine.thinking import Thinking

    thinking = Thinking.of(form, tokenizer, budget)
    assert thinking is not None
    said, left = "", list(chosen)
    while left or thinking.forced is not None:
        token = thinking.forced
        if token is None:
            (token,) = tokenizer.encode(left.pop(0), add_bos=False)
        said += tokenizer.token_bytes(token).decode()
        thinking.record(token)
    return said


@pytest.mark.parametrize(
    ("prompt", "chosen", "said"),
    [
        ("<think>", [" Hm", " So", " Hm"], f" Hm So{END} Hm"),
        ("<think>", [" Hm", "</think>", "Sure", " So", " So", " So"], " Hm</think>Sure So So So"),
        ("<think>", ["<", " So", "Sure"], f"< So{END}Sure"),
        ("<think>", [" Hm", "<", "Sure"], " Hm</think>\n\nSure"),
        ("", ["\n", "<think>", " Hm", " So", " Hm"], f"\n<think> Hm So{END} Hm"),
        ("", ["Sure", "<think>", " Hm", " So", " Hm"], "Sure<think> Hm So Hm"),
        ("", ["<think>", "</think>", "\n", "<think>", " Hm", " So", " Hm"], f"<think></think>\n<think> Hm So{END} Hm"),
    ],
)
def test_which_thoughts_count(opened: Opened, prompt: str, chosen: list[str], said: str) -> None:
    tokenizer = opened().model.tokenizer
    assert forced(tokenizer, answer_form(tokenizer, prompt), 2, chosen) == said


def test_a_begun_mark_is_finished_without_a_space_before_the_rest(shared: Path) -> None:
    """In a vocabulary that puts one before a text, and has no token for the mark."""
    from landrace.engine.thinking import Thinking
    from landrace.text import load_tokenizer

    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / "llama2")
    assert tokenizer.conventions.adds_space
    form = AnswerForm(PLAIN.thinking(Thought("<think>", "</think>", "</think>\n")), REASONING)
    thinking = Thinking.of(form, tokenizer, 2)
    assert thinking is not None
    said, chosen = b"", [tokenizer.token_id(piece) for piece in ("▁So", "</")]
    while chosen or thinking.forced is not None:
        token = chosen.pop(0) if thinking.forced is None else thinking.forced
        assert token is not None
        said += tokenizer.token_bytes(token)
        thinking.record(token)
    assert (said, thinking.n_tokens) == (b" So</think>\n", 1)


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("Qwen-Qwen3-0.6B", {"enable_thinking": False}),
        ("GLM-4.7-Flash", {"enable_thinking": False}),
        ("deepseek-ai-DeepSeek-V3.1", {"enable_thinking": False, "thinking": False}),
        ("DeepSeek-V3.1-tool", {"thinking": False}),
        ("minimind", {"open_thinking": False}),
        ("ByteDance-Seed-OSS", {"thinking_budget": 0}),
        ("Qwen-Qwen2.5-7B-Instruct", None),
        ("openai-gpt-oss-120b", None),
        ("MiniMax-M2", None),
    ],
)
def test_thoughts_are_switched_by_the_templates_own_names(shared: Path, name: str, off: dict[str, Any] | None) -> None:
    template = ChatTemplate((shared / "data" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))
    if off is None:
        with pytest.raises(RequestError, match="no switch"):
            switched(template, on=False)
    else:
        assert switched(template, on=False) == off
        on = {name: -1 if name == "thinking_budget" else True for name in off}
        assert switched(template, on=True) == on


@pytest.mark.parametrize(
    ("name", "effort", "others", "known"),
    [
        ("openai-gpt-oss-120b", "low", {}, True),
        ("GLM-5.2", "high", {}, True),
        ("GLM-5.2", "max", {}, True),
        ("GLM-5.2", "low", {}, False),
        ("deepseek-ai-DeepSeek-V4", "max", {"thinking": True}, True),
        ("deepseek-ai-DeepSeek-V4", "low", {"thinking": True}, False),
        ("Qwen-Qwen3-0.6B", "low", {}, False),
    ],
)
def test_an_effort_is_the_templates_or_an_error(
    shared: Path, name: str, effort: str, others: dict[str, Any], known: bool
) -> None:
    template = ChatTemplate((shared / "data" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))
    if known:
        assert with_effort(template, effort, others) == {"reasoning_effort": effort}
    else:
        with pytest.raises(RequestError, match="reasoning_effort"):
            with_effort(template, effort, others)
