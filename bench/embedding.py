"""Texts a second into vectors against sentence-transformers: the same folder, texts, batch and threads, in turns.

    PYTHONPATH=SITE python bench/embedding.py MODEL_FOLDER [--count 1000] [--batch 64] [--threads 2] [--pairs 7]
                                              [--json FILE]

SITE is a folder with the package sentence-transformers. Texts are the support tickets of the examples, and pairs of
them, which are longer. Both sides get all texts at once, as text, and give normalised float32 vectors; theirs sorts by
length before it makes batches. A round is ours and theirs, in turns of which is first; the median of the ratios counts.
Ends with an error where a pair of vectors has a cosine below 0.99999. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from landrace import open_embedder
from landrace.bench.pairs import pair_ratio, timed
from landrace.errors import LandraceError
from landrace.ledger.provenance import Provenance

ROOT = Path(__file__).resolve().parents[1]
LEAST_COSINE = 0.99999


def tickets(count: int) -> list[str]:
    """So many texts of one to three sentences and some twice as long, none of them twice."""
    files = [ROOT / "examples" / "support" / name for name in ("train.jsonl", "test.jsonl")]
    single = [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = (
        f"{one} {other}" for step in range(1, len(single)) for one, other in zip(single, single[step:], strict=False)
    )
    found = dict.fromkeys(single)
    for text in pairs:
        if len(found) >= count:
            break
        found.setdefault(text)
    return list(found)[:count]


def main() -> None:
    import sentence_transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    texts = tickets(args.count)
    ours = open_embedder(str(args.model), threads=args.threads)
    theirs = sentence_transformers.SentenceTransformer(str(args.model), device="cpu")

    def encode() -> np.ndarray:
        return theirs.encode(texts, batch_size=args.batch, normalize_embeddings=True)

    def embed() -> np.ndarray:
        return ours.embed(texts, batch=args.batch, normalize=True, truncate=True).vectors

    found, wanted = embed(), encode()  # and both are warm
    cosines = (found.astype(np.float64) * wanted.astype(np.float64)).sum(1)
    if cosines.min() < LEAST_COSINE:
        worst = int(cosines.argmin())
        raise LandraceError(f"Text {worst + 1} has a cosine of {cosines[worst]:.6f}: {texts[worst][:80]!r}.")
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(args.pairs):
        turn = [("ours", embed), ("theirs", encode)]
        for name, work in turn if number % 2 == 0 else turn[::-1]:
            seconds[name].append(timed(work))
    rates = {name: [len(texts) / one for one in each] for name, each in seconds.items()}
    report = {
        "model": args.model.name,
        "texts": len(texts),
        "tokens": sum(ours.embed(texts, truncate=True).tokens),
        "batch": args.batch,
        "threads": args.threads,
        "pairs": args.pairs,
        "least_cosine": float(cosines.min()),
        "texts_a_second": {name: statistics.median(each) for name, each in rates.items()},
        "ratio": asdict(pair_ratio(rates["ours"], rates["theirs"], higher_is_better=True)),
        "peers": {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__},
        "provenance": asdict(Provenance.here()),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except LandraceError as error:
        sys.exit(f"error: {error.message}")
