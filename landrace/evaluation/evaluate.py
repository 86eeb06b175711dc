"""Ask a model every row of a task through the engine, all at once, and judge the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from landrace.engine import Completion, Request, SamplingParams, StepOutput
from landrace.errors import OptionError
from landrace.evaluation.judging import Judgement, judge_answer, judge_choices, judge_text, unscored
from landrace.evaluation.results import ChoiceScore, Evaluation, RowResult
from landrace.evaluation.rows import Row, TaskData
from landrace.evaluation.task import Task
from landrace.text import Tokenizer, chat_prompt
from landrace.text.answers import AnswerForm, answer_form

if TYPE_CHECKING:
    from landrace.engine import Engine

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Question:
    """The requests of one row: one for a generated answer, one a choice for a likelihood."""

    row: Row
    requests: tuple[Request, ...]


def evaluate(
    engine: Engine,
    tokenizer: Tokenizer,
    task: Task,
    *,
    model_name: str,
    adapter: str | None = None,
    data: TaskData | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    limit: int | None = None,
    guided: bool = False,
    shots: int = 0,
    on_progress: OnProgress | None = None,
    training_seconds: float | None = None,
    training_data_sha256: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Evaluation:
    """Scores of `model_name` (with `adapter`, if given) on the task's held-out rows, or on `data`.

    `limit` draws a sample by `seed`; the same seed draws the same rows for every system. Row i of a sampled generation
    (temperature > 0) uses seed + i. `guided` holds every answer to what the task says that answers are (`Task.guide`).
    `shots` training rows, drawn by `seed`, stand before every question with their answers.
    `on_progress(done, total)` counts engine requests. `provenance` is stored as it is: versions, commit, weights hash,
    machine. A row that the engine refuses is counted under errors; the rest go on.
    """
    if guided:
        task.check_guided()
    whole = data or task.load()
    params = SamplingParams(max_tokens=task.max_tokens, temperature=temperature, stop=task.stop)
    examples = task.examples(shots, seed)
    start = time.perf_counter()
    questions = [
        _question(task, tokenizer, row, examples, index, replace(params, seed=seed + index), adapter, guided)
        for index, row in enumerate(whole.sample(limit, seed).rows)
    ]
    requests = [request for question in questions for request in question.requests]
    completions = iter(engine.generate(requests, _progress(on_progress, len(requests))))
    wall_seconds = time.perf_counter() - start
    return Evaluation(
        model=model_name,
        task=task.name,
        kind=task.kind,
        method="likelihood" if task.kind == "choice" else "generate",
        rows=tuple(_result(task, question, [next(completions) for _ in question.requests]) for question in questions),
        wall_seconds=wall_seconds,
        concurrency=min(len(requests), engine.options.most_running),
        seed=seed,
        task_sha256=task.sha256,
        template_sha256=task.template_sha256,
        data_sha256=whole.sha256,
        data_source=whole.source,
        data_rows=len(whole.rows),
        adapter=adapter,
        chat_template_sha256=_chat_template_sha256(task, tokenizer),
        sampling=_sampling(task, temperature),
        guided=guided,
        shots=shots,
        training_seconds=training_seconds,
        training_data_sha256=training_data_sha256,
        provenance=dict(provenance or {}),
    )


@dataclass(frozen=True)
class Prompt:
    """What the model sees: everything up to where the answer starts, as text and as tokens."""

    text: str
    token_ids: tuple[int, ...]
    add_bos: bool
    answer: AnswerForm | None = None
    """How the answer to a chat is taken apart."""


def build_prompt(task: Task, tokenizer: Tokenizer, row: Row, examples: Sequence[Row] = ()) -> Prompt:
    """The prompt of a row, behind `examples` with their answers. A chat task on a model without a chat template is an
    OptionError."""
    if task.mode == "plain":
        text = task.plain_prompt(row, examples)
        return Prompt(text, tuple(tokenizer.encode(text)), add_bos=True)
    if tokenizer.chat_template is None:
        raise OptionError(
            f"The task '{task.name}' is a chat, but the model has no chat template.",
            hint='Set "mode": "plain" in the task.',
        )
    prompt = chat_prompt(tokenizer, task.messages(row, examples))
    return Prompt(prompt.text, tuple(prompt.token_ids), add_bos=False, answer=answer_form(tokenizer, prompt.text))


def _question(
    task: Task,
    tokenizer: Tokenizer,
    row: Row,
    examples: Sequence[Row],
    index: int,
    params: SamplingParams,
    adapter: str | None,
    guided: bool,
) -> _Question:
    prompt = build_prompt(task, tokenizer, row, examples)
    if task.kind != "choice":
        guide = task.guide(row) if guided else None
        request = Request(f"row-{index}", prompt.token_ids, params, adapter, prompt.answer, guide=guide)
        return _Question(row, (request,))
    continued = [_continued(prompt, task.answer_prefix + choice, tokenizer) for choice in row.choices]
    opened = _continued(prompt, task.answer_prefix, tokenizer) if task.answer_prefix else prompt.token_ids
    score = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs_from=_context_length(opened, continued))
    requests = [Request(f"row-{index}-choice-{number}", ids, score, adapter) for number, ids in enumerate(continued)]
    return _Question(row, tuple(requests))


def _context_length(opened: tuple[int, ...], continued: Sequence[tuple[int, ...]]) -> int:
    """How many tokens come before the choices: those of the prompt and the answer prefix.

    A token that joins the end of the prefix to the start of a choice (" Paris" behind " ") belongs to the choice, and
    the scores of all choices begin at the same token.
    """

    def shared(ids: tuple[int, ...]) -> int:
        pairs = zip(opened, ids, strict=False)
        return next(
            (place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(opened), len(ids) - 1)
        )

    return min(map(shared, continued))


def _continued(prompt: Prompt, text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The prompt's own tokens and those of `text` behind them; a token that would span the border is not used."""
    together = tuple(tokenizer.encode(prompt.text + text, add_bos=prompt.add_bos))
    length = len(prompt.token_ids)
    if together[:length] == prompt.token_ids and len(together) > length:
        return together
    return (*prompt.token_ids, *tokenizer.encode(text, add_bos=False))


def _result(task: Task, question: _Question, completions: Sequence[Completion]) -> RowResult:
    error = next((item.error.message for item in completions if item.error is not None), None)
    if task.kind == "choice":
        return _likelihood_result(task, question, completions, error)
    completion = completions[0]
    judgement = Judgement(None, "unparsed") if error else _judged(task, question, completion)
    return RowResult(
        **_shared(task, question, completions, error),
        answer=completion.text,
        parsed=judgement.parsed,
        correct=judgement.correct,
        refused=judgement.refused,
        fields=judgement.fields,
        valid=judgement.valid,
        completion_tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
    )


def _judged(task: Task, question: _Question, completion: Completion) -> Judgement:
    form = question.requests[0].answer
    if form is None:
        return judge_text(task, question.row, completion.text)
    said = completion.parts.content
    # Of a template that shows no thoughts, a model tuned to think may still write some, as text.
    return (judge_text if form.grammar.thought is None else judge_answer)(task, question.row, said)


def _likelihood_result(
    task: Task, question: _Question, completions: Sequence[Completion], error: str | None
) -> RowResult:
    """A row of scored choices. Nothing was generated, so no finish reason and no answer tokens are reported."""
    row = question.row
    scores = tuple(_choice_score(choice, item) for choice, item in zip(row.choices, completions, strict=True))
    error = error or unscored(scores)
    shared = _shared(task, question, completions, error)
    if error is not None:
        return RowResult(**shared, answer="", parsed=None, correct=False, raw_correct=False)
    judgement, raw_correct = judge_choices(row, scores)
    return RowResult(
        **shared,
        answer=judgement.parsed or "",
        parsed=judgement.parsed,
        correct=judgement.correct,
        choices=scores,
        raw_correct=raw_correct,
    )


def _choice_score(choice: str, completion: Completion) -> ChoiceScore:
    total = sum(token.logprob for token in completion.prompt_logprobs)
    return ChoiceScore(choice, len(completion.prompt_logprobs), total, total / len(choice.encode("utf-8")))


def _shared(task: Task, question: _Question, completions: Sequence[Completion], error: str | None) -> dict[str, Any]:
    row = question.row
    return {
        "id": row.id,
        "inputs": dict(row.inputs),
        "groups": dict(row.groups),
        "expected": task.answer_text(row),
        "prompt_tokens": sum(item.prompt_tokens for item in completions),
        "cached_prompt_tokens": sum(item.cached_prompt_tokens for item in completions),
        "error": error,
    }


def _sampling(task: Task, temperature: float) -> dict[str, Any]:
    if task.kind == "choice":
        return {"decides": "log-probability per byte (acc_bytes)"}
    return {"temperature": temperature, "max_tokens": task.max_tokens, "stop": list(task.stop)}


def _chat_template_sha256(task: Task, tokenizer: Tokenizer) -> str | None:
    return tokenizer.chat_template.sha256 if task.mode == "chat" and tokenizer.chat_template is not None else None


def _progress(on_progress: OnProgress | None, total: int) -> Callable[[StepOutput], None] | None:
    if on_progress is None:
        return None
    done = 0

    def count(output: StepOutput) -> None:
        nonlocal done
        if output.finish_reason is not None:
            done += 1
            on_progress(done, total)

    return count
