"""What guides cost: to compile, a mask, and a token of guided generation against the same number of free ones.

    python bench/guided.py MODEL [--streams 1 16] [--tokens 96] [--rounds 5] [--weights stored] [--threads N]
                           [--json FILE]

Two engines share one decoder and answer in turns of a few steps, so that whatever else the machine does meets both
alike. What is compared is the time of a token, round by round; the median counts. `text` leaves every token to the
model: what it takes beyond free generation is what guides cost. `list` is JSON, in which some tokens are forced and
take no step: what it takes is what users see. Masks and compilation are in processor time, over random answers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from landrace.engine import Engine, Request, SamplingParams
from landrace.errors import LandraceError
from landrace.ledger.provenance import Provenance
from landrace.model import open_engine
from landrace.text import Tokenizer
from landrace.text.guides import Guide, GuideCompiler

TURN = 8
"""Steps between changes."""
RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["refund", "cancel", "book", "complain"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"},
        "people": {"type": "integer", "minimum": 1, "maximum": 20},
        "summary": {"type": "string", "maxLength": 80},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["intent", "code", "people", "summary", "tags"],
    "additionalProperties": False,
}
NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "below": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["value", "below"],
    "additionalProperties": False,
}
GUIDES = {
    "record": Guide.of_schema(RECORD),
    "any object": Guide.of_json_object(),
    "tree": Guide.of_schema({"$ref": "#/$defs/node", "$defs": {"node": NODE}}),
    "100 properties": Guide.of_schema(
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100)}}
    ),
    "1000 values": Guide.of_schema({"enum": [f"value {n} of many" for n in range(1000)]}),
    "1000 choices": Guide.of_choices([f"choice {n} of many" for n in range(1000)]),
    "pattern": Guide.of_regex(r"[A-Z][a-z]{2,20}( [A-Z][a-z]{2,20}){1,5}, \d{4}-\d{2}-\d{2}"),
}
LONG = {
    "text": Guide.of_regex(r"(?s:.*)"),
    "list": Guide.of_schema({"type": "array", "items": RECORD, "minItems": 10_000}),
}
"""Answers that do not end."""


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time."""

    guide: str
    compiled: float
    mask: float
    """Mean."""
    greatest_mask: float
    record: float
    """To note a token and find those that are forced behind it, mean."""
    forced: float
    """Share of the tokens."""


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds."""

    guide: str
    streams: int
    free: float
    """Milliseconds a token and stream."""
    guided: float
    overhead: float
    """Of guided over free, less 1."""
    least: float
    greatest: float


def cost(tokenizer: Tokenizer, name: str, guide: Guide, *, answers: int = 8, most: int = 100) -> Cost:
    """Random answers, so that strings are of any tokens: a trained model asks for less."""
    timed = _Timed()
    compiler = GuideCompiler(tokenizer)
    _ = compiler.vocabulary
    timed("compile", lambda: compiler.check(guide))
    tokens = forced = 0
    for seed in range(answers):
        rng, walk = random.Random(seed), compiler.walk(guide)
        for _ in range(most):
            if walk.complete:
                break
            mask = timed("mask", lambda walk=walk: walk.mask)
            token = walk.forced[0] if walk.forced else _any_of(mask, rng)
            tokens, forced = tokens + 1, forced + bool(walk.forced)
            timed("record", lambda walk=walk, token=token: walk.record(token))
    masks = timed.milliseconds["mask"]
    return Cost(
        name,
        timed.milliseconds["compile"][0],
        statistics.mean(masks),
        max(masks),
        statistics.mean(timed.milliseconds["record"]),
        forced / tokens,
    )


class _Timed:
    """Runs things and notes the processor time that each takes."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = {}

    def __call__(self, what: str, run: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = run()
        self.milliseconds.setdefault(what, []).append(1e3 * (time.process_time() - started))
        return result


def _any_of(mask: bytearray, rng: random.Random) -> int:
    """One of the tokens that a mask allows."""
    while True:
        start = rng.randrange(len(mask))
        place = next((at % len(mask) for at in range(start, start + len(mask)) if mask[at % len(mask)]), None)
        if place is None:
            raise LandraceError("Nothing is allowed.")
        return 8 * place + rng.choice([bit for bit in range(8) if mask[place] >> bit & 1])


class Answering:
    """One engine's answers to some requests, step by step."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self._engine = engine
        for request in requests:
            engine.add(request)
        self._waiting = {request.id for request in requests}
        self.seconds, self.tokens = 0.0, 0
        while self._waiting and engine.has_work:  # prompts are not what is compared
            self.step()
        self.seconds, self.tokens = 0.0, 0

    def step(self) -> None:
        started = time.perf_counter()
        outputs = self._engine.step()
        self.seconds += time.perf_counter() - started
        for output in outputs:
            if output.error is not None:
                raise output.error
            self.tokens += len(output.token_ids)
            self._waiting.discard(output.request_id)

    @property
    def has_work(self) -> bool:
        return self._engine.has_work


def speed(engines: Sequence[Engine], prompt: Sequence[int], name: str, guide: Guide, streams: int, args: Any) -> Speed:
    """`engines`: for free answers, and for guided ones."""
    times = []
    for number in range(args.rounds):
        asked = [
            [
                Request(f"{number}-{n}", tuple(prompt), SamplingParams(args.tokens, seed=n, ignore_eos=True), guide=of)
                for n in range(streams)
            ]
            for of in (None, guide)
        ]
        pair = [Answering(engine, requests) for engine, requests in zip(engines, asked, strict=True)]
        while any(answering.has_work for answering in pair):
            for answering in pair if number % 2 == 0 else pair[::-1]:
                for _ in range(TURN):
                    if answering.has_work:
                        answering.step()
        times.append([1e3 * answering.seconds / (answering.tokens / streams) for answering in pair])
    ratios = [guided / free - 1 for free, guided in times]
    free, guided = (statistics.median(column) for column in zip(*times, strict=True))
    return Speed(name, streams, free, guided, statistics.median(ratios), min(ratios), max(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", default="stored")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_engine(args.model, weights=args.weights, threads=args.threads).model
    tokenizer = model.tokenizer
    where = Provenance.here()
    load = os.getloadavg()[0]
    print(f"{args.model}: {tokenizer.vocab_size} tokens; load {load:.1f}")
    costs = [cost(tokenizer, name, guide) for name, guide in GUIDES.items()]
    for one in costs:
        print(
            f"{one.guide:16} compiled in {one.compiled:7.2f} ms; mask {one.mask:6.3f} ms, at most "
            f"{one.greatest_mask:6.2f}; to note a token {one.record:6.3f} ms; {one.forced:.0%} forced"
        )
    engines = [Engine(model.decoder, tokenizer) for _ in range(2)]
    prompt = tokenizer.encode("Here is what came in today, in full:\n")
    speeds = []
    for streams in args.streams:
        for name, guide in LONG.items():
            one = speed(engines, prompt, name, guide, streams, args)
            speeds.append(one)
            print(
                f"{name:16} {streams:3} streams: free {one.free:.2f} ms a token, guided {one.guided:.2f} ms: "
                f"{one.overhead:+.1%} ({one.least:+.1%} to {one.greatest:+.1%})",
                flush=True,
            )
    if args.json is not None:
        told = {
            "model": Path(args.model).name,
            "provenance": asdict(where),
            "load": load,
            "options": {key: str(value) for key, value in vars(args).items() if key not in ("model", "json")},
            "costs": [asdict(one) for one in costs],
            "speeds": [asdict(one) for one in speeds],
        }
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except LandraceError as error:
        sys.exit(error.message)
