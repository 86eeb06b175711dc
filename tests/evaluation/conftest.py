"""A tokenizer of bytes and an engine of canned answers: what `evaluate` needs, and nothing to compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from landrace.engine import Completion, EngineOptions, Request, StepOutput, TokenLogprob
from landrace.errors import RequestError
from landrace.evaluation.results import Evaluation, RowResult
from landrace.text import ChatTemplate
from landrace.text.answers import Content
from landrace.text.answers.grammars import PLAIN


class FakeTemplate(ChatTemplate):
    sha256 = "template"

    def __init__(self) -> None:
        super().__init__(
            "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )


class FakeTokenizer:
    control_ids: frozenset[int] = frozenset()
    answer_grammar = PLAIN

    def __init__(self, *, chat: bool = True) -> None:
        self.chat_template = FakeTemplate() if chat else None

    def added_ids(self, text: str) -> list[int]:
        return []

    def encode(
        self, text: str, *, add_bos: bool = True, parse_special: bool = True, limit: int | None = None
    ) -> list[int]:
        return [256] * add_bos + list(text.encode())


def text_of(ids: Sequence[int]) -> str:
    return bytes(item for item in ids if item < 256).decode()


@dataclass
class FakeEngine:
    """Generates `answer(prompt text)`: a text, (text, finish reason), or an error. Scores a prompt token t as -t."""

    answer: Callable[[str], str | tuple[str, str] | RequestError]
    options: EngineOptions = field(default_factory=lambda: EngineOptions(max_running=4))
    batches: list[list[Request]] = field(default_factory=list)

    def generate(
        self, requests: Sequence[Request], on_output: Callable[[StepOutput], None] | None = None
    ) -> list[Completion]:
        self.batches.append(list(requests))
        outputs = [self._outputs(request) for request in requests]
        for parts in reversed(outputs):
            for part in parts if on_output is not None else ():
                on_output(part)
        return [Completion.of(request, parts) for request, parts in zip(requests, outputs, strict=True)]

    def _outputs(self, request: Request) -> list[StepOutput]:
        start = request.params.prompt_logprobs_from
        answer = self.answer(text_of(request.prompt_ids))
        if isinstance(answer, RequestError):
            return [StepOutput(request.id, (), "", (), (), "error", answer, 0, None)]
        if start is not None:
            scored = tuple(TokenLogprob(token, -float(token), ()) for token in request.prompt_ids[start:])
            return [StepOutput(request.id, (), "", (), scored, "length", None, 2, None)]
        text, reason = answer if isinstance(answer, tuple) else (answer, "stop")
        ids = tuple(text.encode())
        return [
            StepOutput(request.id, ids[:1], text[:1], (), (), None, None, 2, None, events=(Content(text[:1]),)),
            StepOutput(request.id, ids[1:], text[1:], (), (), reason, None, 2, None, events=(Content(text[1:]),)),
        ]


def make_evaluation(model: str, answers: Sequence[str | None], expected: Sequence[str], **values: Any) -> Evaluation:
    """An evaluation with these parsed answers; languages alternate."""
    rows = tuple(
        RowResult(
            id=f"row-{index}",
            inputs={"text": f"ticket {index}"},
            groups={"language": ("en", "vi")[index % 2]},
            expected=truth,
            answer=parsed or "?",
            parsed=parsed,
            correct=parsed == truth,
            prompt_tokens=40,
            completion_tokens=3,
            finish_reason="stop",
        )
        for index, (parsed, truth) in enumerate(zip(answers, expected, strict=True))
    )
    shared: dict[str, Any] = {
        "task": "support",
        "kind": "classification",
        "method": "generate",
        "wall_seconds": 36.0,
        "concurrency": 16,
        "seed": 0,
        "task_sha256": "t",
        "template_sha256": "p",
        "data_sha256": "d",
        "data_source": "test.jsonl",
        "data_rows": len(rows),
    }
    return Evaluation(model=model, rows=rows, **{**shared, **values})


@pytest.fixture
def fake_engine() -> type[FakeEngine]:
    return FakeEngine


@pytest.fixture
def fake_tokenizer() -> type[FakeTokenizer]:
    return FakeTokenizer


@pytest.fixture
def evaluation_of() -> Callable[..., Evaluation]:
    return make_evaluation
