"""Rows to examples: token ids and a mask that is true where the loss is."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from landrace.data import Faults
from landrace.errors import DataError, RequestError
from landrace.training.answers import Answer, completion_answer, stop_token
from landrace.training.chat import Conversation
from landrace.training.data import ChatRow, CompletionRow, ExcludedRow, Row, TextRow

if TYPE_CHECKING:
    from landrace.text import Tokenizer

_NAMED = 5
"""Rows that a report names; the rest are only counted."""


@dataclass(frozen=True)
class Example:
    """One sequence. `trained[i]` says whether token i is part of an answer, that is, predicted under the loss."""

    token_ids: tuple[int, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True)
class DataReport:
    """What became of the rows. An answer is one completion, one assistant turn or one text."""

    rows: int
    answers: int
    examples: int
    tokens: int
    trained_tokens: int
    too_long: int
    """Answers left out because they and their prompt exceed `max_length`."""
    too_long_rows: tuple[str, ...]
    """Where the first of them are."""
    split_rows: int
    """Conversations of several examples, because the template rewrites earlier turns as a conversation grows."""
    joined: int
    """Answers put behind a generation prompt that the template itself would not put before them."""
    stops_added: int
    """Turns that the template ends without a stop token."""
    context_only: int
    """Assistant turns that are read and not learned, because their row says so."""
    excluded: int
    """Rows without anything to learn."""
    excluded_rows: tuple[str, ...]
    """Where the first of them are, and why."""
    remarks: tuple[str, ...]
    """What of the rows was not used or was read as something else, and of how many."""
    trimmed: int
    """Answers that the template writes without the white space at their beginning or end."""
    trimmed_rows: tuple[str, ...]
    """Where the first of them are."""


def build_examples(rows: Sequence[Row], tokenizer: Tokenizer, *, max_length: int) -> tuple[list[Example], DataReport]:
    """Examples in the order of the rows, none longer than `max_length` tokens: longer answers are left out and
    counted, because an answer behind half a prompt is one that inference never asks for. DataError if none is left, or
    if rows cannot be used: one error tells of all of them.
    """
    examples: list[Example] = []
    kept: list[Answer] = []
    too_long: list[str] = []
    trimmed: list[str] = []
    split_rows = 0
    faults = Faults()
    for row in rows:
        try:
            answers = row_answers(row, tokenizer)
        except DataError as error:
            faults.add(row.where, error)
            continue
        fitting = [answer for answer in answers if len(answer.token_ids) <= max_length]
        too_long += [row.where] * (len(answers) - len(fitting))
        trimmed += [row.where] * sum(answer.trimmed for answer in fitting)
        merged = merge_answers(fitting)
        split_rows += len(merged) > 1
        examples += merged
        kept += fitting
    faults.raise_any()
    excluded = [row for row in rows if isinstance(row, ExcludedRow)]
    remarks = Counter(remark for row in rows for remark in set(row.remarks))
    if not examples:
        if too_long:
            raise DataError(f"All {len(too_long)} answers are longer than max_length, {max_length} tokens.")
        why = f"; the first: {excluded[0].where}: {excluded[0].because}" if excluded else ""
        raise DataError(f"There are no rows to train on: {len(excluded)} of {len(rows)} have nothing to learn{why}.")
    report = DataReport(
        rows=len(rows),
        answers=len(kept),
        examples=len(examples),
        tokens=sum(len(example.token_ids) for example in examples),
        trained_tokens=sum(sum(example.trained) for example in examples),
        too_long=len(too_long),
        too_long_rows=tuple(dict.fromkeys(too_long))[:_NAMED],
        split_rows=split_rows,
        joined=sum(answer.joined for answer in kept),
        stops_added=sum(answer.stop_added for answer in kept),
        context_only=sum(len(row.context_only) for row in rows if isinstance(row, ChatRow)),
        excluded=len(excluded),
        excluded_rows=tuple(f"{row.where}: {row.because}" for row in excluded[:_NAMED]),
        remarks=tuple(f"{remark} ({count} of {len(rows)} rows)" for remark, count in sorted(remarks.items())),
        trimmed=len(trimmed),
        trimmed_rows=tuple(trimmed[:_NAMED]),
    )
    return examples, report


def row_answers(row: Row, tokenizer: Tokenizer) -> list[Answer]:
    """The answers of one row. DataError names the row."""
    try:
        if isinstance(row, ChatRow):
            return Conversation(row, tokenizer).answers()
        if isinstance(row, CompletionRow):
            return [completion_answer(row, tokenizer)]
        return [_text_answer(row, tokenizer)] if isinstance(row, TextRow) else []
    except RequestError as error:
        raise DataError(f"{row.where}: {error.message}", hint=error.hint) from error


def _text_answer(row: TextRow, tokenizer: Tokenizer) -> Answer:
    """A document: all of it is learned but the first token, which nothing stands before, and then the end. What looks
    like a control token in it is ordinary text."""
    ids = tokenizer.encode(row.text, parse_special=False)
    return Answer((*ids, stop_token(tokenizer)), prompt_length=1)


def merge_answers(answers: Sequence[Answer]) -> list[Example]:
    """As few examples as hold all answers, in order.

    An answer whose whole sequence begins a later one is trained inside that one: causal attention makes this the same
    computation. Turns that a template renders differently later (Qwen3 drops thoughts, say) stay by themselves.
    """
    examples: list[tuple[tuple[int, ...], list[bool]]] = []
    for answer in reversed(answers):
        size = len(answer.token_ids)
        home = next((trained for ids, trained in examples if ids[:size] == answer.token_ids), None)
        if home is None:
            home = [False] * size
            examples.append((answer.token_ids, home))
        home[answer.prompt_length : size] = [True] * (size - answer.prompt_length)
    return [Example(ids, tuple(trained)) for ids, trained in reversed(examples)]


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hash of exactly what is trained: it changes with data, template, tokenizer and max_length."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(array("q", [len(example.token_ids), *example.token_ids]).tobytes())
        digest.update(bytes(example.trained))
    return digest.hexdigest()
