"""Tokens a second of one stream with drafts against without, on answers that repeat what was given and on others.

    python bench/drafts.py MODEL [--rounds 5] [--tokens 200] [--turn 24] [--weights stored] [--threads N] [--json FILE]
                           [--draft ngram, mtp or MODEL] [--draft-weights stored]

Both engines share one decoder and give the same answer in turns of a few tokens, so that whatever else the machine does
meets both alike; prompts are in both caches. What is compared is the time of the answers' steps, round by round; the
median counts. Ends with an error where the tokens differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.engine.options import MTP, NGRAM
from landrace.errors import LandraceError
from landrace.model import open_engine
from landrace.text import encode_chat

NOTICE = """\
The lift in the north stairwell will be out of service from Monday 4 May until Friday 8 May while the contractor \
replaces the main cable. Residents on the upper floors who cannot use the stairs are asked to ring the caretaker on \
0171 555 0142 before Thursday 30 April, so that a stair climber can be booked. Deliveries should be left at the \
reception desk between 8:00 and 17:30. The south lift stays in use, but its door closes slowly and it carries no more \
than four people. The fire drill planned for Wednesday 6 May has been moved to Tuesday 12 May at 10:15. The water \
pressure on floors six to nine will be low on the morning of Thursday 7 May, since the pump in the basement has to be \
switched off for about two hours. Bicycles that stand in the entrance hall on Monday morning will be taken to the \
yard, because the cable drum needs the space. Complaints and questions go to the office on the ground floor."""

CODE = """\
class Shelf:
    def __init__(self, width, height):
        self.width = width
        self.height = height
        self.boxes = []

    def add(self, box):
        if box.width > self.width:
            raise ValueError("the box is too wide for this shelf")
        if box.height > self.height:
            raise ValueError("the box is too high for this shelf")
        self.boxes.append(box)

    def remove(self, box):
        if box not in self.boxes:
            raise ValueError("the box is not on this shelf")
        self.boxes.remove(box)

    def free_width(self):
        used = sum(box.width for box in self.boxes)
        return self.width - used"""

TICKETS = """\
[1] Anna Weber, 12 March: The heating in flat 14 makes a knocking noise every night at about three o'clock.
[2] Tomasz Lis, 12 March: The light in the garage has been broken for two weeks and nobody has come to look at it.
[3] Grace Obi, 13 March: My key does not turn in the lock of the cellar door any more.
[4] Anna Weber, 15 March: The knocking noise is still there and now the radiator leaks as well.
[5] Luis Prado, 16 March: The neighbours above play loud music after midnight, and the letter box is full.
[6] Grace Obi, 18 March: The new key works, thank you, but the cellar light switches off after ten seconds."""

MISSPELT = NOTICE.replace("Residents", "Residnets").replace("because", "becuase").replace("should", "shoud")
REPEATING = {
    "copy": f"Repeat the following text exactly, word for word, and write nothing else.\n\n{NOTICE}",
    "code edit": "Rename the class Shelf to Rack in this Python code. Give back the whole code and change nothing else."
    f"\n\n```python\n{CODE}\n```",
    "extraction": f"Write down every ticket of Anna Weber and of Grace Obi, exactly as it stands here.\n\n{TICKETS}",
    "summary": "Summarise this notice for a resident in five points, each with a quote of the sentence it comes from."
    f"\n\n{NOTICE}",
    "correction": f"Correct the spelling of this text. Give back the whole corrected text.\n\n{MISSPELT}",
}
OTHER = {
    "story": "Write a story about a lighthouse keeper who finds a letter in a bottle.",
    "explanation": "Explain how a refrigerator works to somebody who has never seen one.",
    "letter": "Write a letter to a friend about a journey by train through the mountains.",
    "advice": "I have to give a speech at my sister's wedding. What should I think of?",
    "opinion": "What is better for a small town, a library or a swimming pool? Give reasons for both.",
}
KINDS = {"repeating": (REPEATING, 0.0), "other, greedy": (OTHER, 0.0), "other, sampled": (OTHER, 1.0)}
"""Texts, and the temperature they are answered at."""


@dataclass(frozen=True)
class Row:
    kind: str
    text: str
    tokens: int
    plain: float
    """Tokens a second without drafts, by the median round."""
    drafted: float
    speed: float
    """Median over the rounds of drafted / plain."""
    lowest: float
    highest: float
    proposed: int
    """Tokens drafted in the last round."""
    accepted: int


class Answering:
    """One engine's answer to one request, step by step."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine = engine
        engine.add(request)
        self.tokens: list[int] = []
        self.seconds = 0.0
        self.n_timed = self.proposed = self.accepted = 0
        while not self.tokens:
            self._step()
        self.seconds = 0.0
        self.n_timed = len(self.tokens)

    def advance(self, n_tokens: int) -> None:
        """Goes on until the answer has so many tokens or ends."""
        while self._engine.has_work and len(self.tokens) < n_tokens:
            self._step()

    def _step(self) -> None:
        started = time.perf_counter()
        outputs = self._engine.step()
        self.seconds += time.perf_counter() - started
        for output in outputs:
            if output.error is not None:
                raise output.error
            self.tokens += output.token_ids
            self.proposed += output.drafted_tokens
            self.accepted += output.accepted_tokens

    @property
    def rate(self) -> float:
        """Tokens a second after the first step that gave some."""
        return (len(self.tokens) - self.n_timed) / self.seconds


def measure(
    plain: Engine, drafted: Engine, kind: str, text: str, prompt: Sequence[int], params: SamplingParams, args: Arguments
) -> Row:
    rates = []
    for number in range(args.rounds):
        request = Request(f"round-{number}", tuple(prompt), params)
        pair = [Answering(engine, request) for engine in (plain, drafted)]
        turns = pair if number % 2 == 0 else pair[::-1]
        for n_tokens in range(args.turn, params.max_tokens + args.turn, args.turn):
            for answering in turns:
                answering.advance(n_tokens)
        if pair[0].tokens != pair[1].tokens:
            raise LandraceError(f"{text}: the tokens differ.")
        rates.append((pair[0].rate, pair[1].rate))
    ratios = [with_drafts / without for without, with_drafts in rates]
    return Row(
        kind,
        text,
        len(pair[0].tokens),
        statistics.median(without for without, _ in rates),
        statistics.median(with_drafts for _, with_drafts in rates),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        pair[1].proposed,
        pair[1].accepted,
    )


@dataclass(frozen=True)
class Arguments:
    model: str
    rounds: int
    tokens: int
    turn: int
    weights: str
    threads: int | None
    draft: str
    draft_weights: str
    json: Path | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--turn", type=int, default=24)
    parser.add_argument("--weights", default="stored")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--draft", default=NGRAM)
    parser.add_argument("--draft-weights", default="stored")
    parser.add_argument("--json", type=Path)
    args = Arguments(**vars(parser.parse_args()))
    options = EngineOptions(draft=args.draft)
    opened = EngineOptions(draft=MTP if args.draft == MTP else None)
    model = open_engine(args.model, weights=args.weights, threads=args.threads, options=opened).model
    tokenizer, draft_model = model.tokenizer, None
    if options.draft_model is not None:
        named = options.draft_model
        draft_model = open_engine(named, weights=args.draft_weights, threads=args.threads).engine.decoder
    plain = Engine(model.decoder, tokenizer)
    drafted = Engine(model.decoder, tokenizer, options, draft_model=draft_model)
    rows = []
    print(f"{'':32}{'tokens':>7}{'plain':>9}{'drafted':>9}{'speed':>8}   (tokens a second; lowest to highest; right)")
    for kind, (texts, temperature) in KINDS.items():
        params = SamplingParams(max_tokens=args.tokens, temperature=temperature, seed=1)
        for text, content in texts.items():
            prompt = encode_chat(tokenizer, [{"role": "user", "content": content}])
            row = measure(plain, drafted, kind, text, prompt, params, args)
            rows.append(row)
            numbers = f"{row.tokens:7}{row.plain:9.1f}{row.drafted:9.1f}{row.speed:7.2f}x"
            spread = f"{row.lowest:.2f} to {row.highest:.2f}; {row.accepted} of {row.proposed}"
            print(f"{kind + ': ' + text:32}{numbers}   ({spread})", flush=True)
    for kind in KINDS:
        speeds = [row.speed for row in rows if row.kind == kind]
        print(f"{kind}: {statistics.geometric_mean(speeds):.2f}x on average, {min(speeds):.2f}x at least")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except LandraceError as error:
        sys.exit(error.message)
