"""Training rows out of kept conversations and what people said of their answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, get_args

from landrace.ledger.conversations import Exchange, Feedback

RowKind = Literal["sft", "preference", "kto"]
ROW_KINDS = get_args(RowKind)
_BUCKETS = 10_000
_WHOLE = ("stop", "tool_calls")


@dataclass
class Dataset:
    """Rows, and how many exchanges gave none, by reason."""

    train: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def build_dataset(
    exchanges: Iterable[Exchange], feedback: Iterable[Feedback], kind: str, *, validation: float
) -> Dataset:
    """The rows of one of `ROW_KINDS`, every exchange a row or counted among what is left out.

    - sft: an answer that was rated up, or the correction of one;
    - preference: a correction before the answer it corrects, and of several answers to one prompt one that was rated up
      before one that was rated down;
    - kto: an answer with whether it was rated up, and a correction as a good one.

    A share `validation` of the conversations, chosen by their hash and so the same in every export, is set apart whole.
    Rows that say the same are written once.
    """
    said = {(one.response_id, one.choice): one for one in feedback if one.rating or one.correction is not None}
    found = Dataset()
    usable = []
    for one in exchanges:
        # Of an answer that was cut or failed, only what it should have been can be learned.
        corrected = (of_it := said.get(_name(one))) is not None and of_it.correction is not None
        if one.finish_reason in _WHOLE or (kind == "sft" and corrected):
            usable.append(one)
        else:
            found.left_out[f"the answer ended with {one.finish_reason}"] += 1
    rows = {"sft": _sft, "preference": _preference, "kto": _kto}[kind](usable, said, found.left_out)
    seen: set[str] = set()
    for conversation, row in rows:
        spelled = json.dumps(row, sort_keys=True)
        if spelled in seen:
            found.left_out["says the same as another row"] += 1
            continue
        seen.add(spelled)
        bucket = int.from_bytes(sha256(conversation.encode()).digest()[:8], "big") % _BUCKETS
        (found.validation if bucket < validation * _BUCKETS else found.train).append(row)
    return found


_Said = Mapping[tuple[str, int], Feedback]
_Rows = Iterator[tuple[str, dict[str, Any]]]


def _sft(exchanges: Sequence[Exchange], said: _Said, left_out: Counter[str]) -> _Rows:
    for one in exchanges:
        of_it = said.get(_name(one))
        if of_it is None:
            left_out["nobody said anything of the answer"] += 1
        elif of_it.correction is not None:
            yield one.conversation, _with_tools(one, {"messages": [*one.messages, _assistant(of_it.correction)]})
        elif of_it.rating == "down":
            left_out["rated down, without a correction"] += 1
        else:
            yield one.conversation, _with_tools(one, {"messages": [*one.messages, dict(one.answer)]})


def _preference(exchanges: Sequence[Exchange], said: _Said, left_out: Counter[str]) -> _Rows:
    by_prompt: dict[str, list[Exchange]] = {}
    for one in exchanges:
        prompt = json.dumps([*one.messages, one.tools], sort_keys=True)
        by_prompt.setdefault(prompt, []).append(one)
    for same in by_prompt.values():
        good = [one for one in same if (of := said.get(_name(one))) and of.rating == "up" and of.correction is None]
        bad = [one for one in same if (of := said.get(_name(one))) and of.rating == "down" and of.correction is None]
        for one in same:
            of_it = said.get(_name(one))
            if of_it is None:
                left_out["nobody said anything of the answer"] += 1
            elif of_it.correction is not None:
                yield one.conversation, _pair(one, _assistant(of_it.correction), dict(one.answer))
            elif not (good and bad):
                left_out["there is no other answer to prefer it to, or to prefer to it"] += 1
            elif of_it.rating == "down":
                yield one.conversation, _pair(one, dict(good[0].answer), dict(one.answer))


def _kto(exchanges: Sequence[Exchange], said: _Said, left_out: Counter[str]) -> _Rows:
    for one in exchanges:
        of_it = said.get(_name(one))
        if of_it is None:
            left_out["nobody said anything of the answer"] += 1
            continue
        good = of_it.rating == "up" and of_it.correction is None
        yield one.conversation, _labelled(one, dict(one.answer), good)
        if of_it.correction is not None:
            yield one.conversation, _labelled(one, _assistant(of_it.correction), True)


def _name(exchange: Exchange) -> tuple[str, int]:
    return exchange.response_id, exchange.choice


def _pair(exchange: Exchange, chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> dict[str, Any]:
    row = {"prompt": list(exchange.messages), "chosen": [chosen], "rejected": [rejected]}
    return _with_tools(exchange, row)


def _labelled(exchange: Exchange, answer: Mapping[str, Any], label: bool) -> dict[str, Any]:
    return _with_tools(exchange, {"prompt": list(exchange.messages), "completion": [answer], "label": label})


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _with_tools(exchange: Exchange, row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "tools": list(exchange.tools)} if exchange.tools else row
