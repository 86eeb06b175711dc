"""Megabytes of text a second that become token ids, against the `tokenizers` library on the same vocabulary.

    python bench/encoding.py MODEL... --texts FOLDER [--rounds 5] [--characters 20000] [--json FILE]

MODEL is a folder or a GGUF file; only its tokenizer is opened. The text is the beginning of every .txt file in FOLDER.
Both sides use one thread and take turns, and what counts is processor time, which other programs disturb less than the
clock. The library is given the whole text at once, by its call that keeps no offsets. Ends with an error where the ids
differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from landrace.checkpoints.gguf_file import read_gguf
from landrace.errors import LandraceError
from landrace.text import Tokenizer, load_tokenizer, tokenizer_from_gguf


@dataclass(frozen=True)
class Speed:
    """Megabytes a second, medians; the ratio is that of the paired rounds."""

    model: str
    landrace: float
    tokenizers: float
    ratio: float
    least: float
    greatest: float


def measure(path: Path, text: str, rounds: int) -> Speed:
    """Both sides in turns, after a round that fills their caches."""
    tokenizer = opened(path)
    tokenizer.warm_up()
    sides: tuple[Callable[[], list[int]], ...] = (
        lambda: tokenizer.encode(text, add_bos=False),
        lambda: list(tokenizer.backend.encode_batch_fast([text], add_special_tokens=False)[0].ids),
    )
    if sides[0]() != sides[1]():
        raise LandraceError(f"The token ids of {path} differ.")
    seconds = [[timed(side) for side in (sides if number % 2 else sides[::-1])] for number in range(rounds)]
    pairs = [pair if number % 2 else pair[::-1] for number, pair in enumerate(seconds)]
    ratios = [theirs / ours for ours, theirs in pairs]
    megabytes = len(text.encode()) / 1e6
    ours, theirs = (megabytes / statistics.median(side) for side in zip(*pairs, strict=True))
    return Speed(path.name, ours, theirs, statistics.median(ratios), min(ratios), max(ratios))


def timed(side: Callable[[], object]) -> float:
    start = time.process_time()
    side()
    return time.process_time() - start


def opened(path: Path) -> Tokenizer:
    return load_tokenizer(path) if path.is_dir() else tokenizer_from_gguf(read_gguf(path).metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--characters", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    files = sorted(args.texts.glob("*.txt"))
    text = "\n".join(file.read_text(encoding="utf-8")[: args.characters] for file in files)
    print(f"{len(text.encode()) / 1e6:.2f} MB of {len(files)} files")
    found = []
    for path in args.models:
        speed = measure(path, text, args.rounds)
        found.append(asdict(speed))
        print(
            f"{speed.model}: {speed.landrace:.2f} MB/s, tokenizers {speed.tokenizers:.2f} MB/s, "
            f"ratio {speed.ratio:.2f} ({speed.least:.2f} to {speed.greatest:.2f})",
            flush=True,
        )
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except LandraceError as error:
        sys.exit(error.message)
