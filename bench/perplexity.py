"""Perplexity of a model as it is served against the same weights de-quantised to float32, text by text.

    python bench/perplexity.py MODEL.gguf --text FOLDER [--tokens 2048] [--window 512] [--threads N] [--json FILE]
                               [--cache-dtype int8 [--cache-alone]]

Every `.txt`, `.xml` and `.json` file under FOLDER is one text; of each, the same number of tokens is scored, in windows
that know nothing of one another. Both paths go through the engine. With `--cache-alone` both are served, and the first
one's cache is in float32. Prints a table and, with `--json`, writes it with where it comes from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.errors import DataError, LandraceError
from landrace.ledger.provenance import Provenance
from landrace.model import ServingModel, open_engine
from landrace.text import Tokenizer

REFERENCE: Mapping[str, Any] = {"weights": "float32", "kernels": "reference"}
SERVED: Mapping[str, Any] = {"weights": "stored", "kernels": "cpu"}
"""How `open_engine` opens the two paths."""

CHARACTERS_PER_TOKEN = 16
"""More than the tokens of any text have on average: what lies beyond is not read."""

Windows = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Scores:
    """What one path says of the scored tokens, window after window."""

    logprobs: tuple[float, ...]
    choices: tuple[int, ...]
    """The likeliest token at each place."""


@dataclass(frozen=True)
class Row:
    """Both paths on the same tokens."""

    text: str
    tokens: int
    reference: float
    """Perplexity: exp(-mean log-probability), in nats."""
    served: float
    logprob_difference: float
    """Mean of |served - reference|, in nats."""
    same_choice: float
    """Fraction of places where both find the same token likeliest."""

    @property
    def difference(self) -> float:
        """Of the served perplexity from the reference's, as a fraction of it; below 0 the served one is lower."""
        return self.served / self.reference - 1

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference}


@dataclass(frozen=True)
class Measured:
    rows: tuple[Row, ...]
    total: Row
    too_short: tuple[str, ...]
    """Texts that were left out."""
    weights_sha256: str


def read_texts(folder: Path) -> dict[str, str]:
    """The texts under `folder` by path without suffix, in order. DataError where there are none."""
    readers = {".txt": _plain, ".xml": _from_xml, ".json": _from_json}
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in readers and file.is_file()]
    if not files:
        raise DataError(f"There is no .txt, .xml or .json file under {folder}.")
    return {str(file.relative_to(folder).with_suffix("")): readers[file.suffix](file) for file in files}


def _plain(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _from_xml(file: Path) -> str:
    """What stands between the tags, an element a line."""
    texts = (element.text or "" for element in ElementTree.fromstring(file.read_bytes()).iter())
    return "\n".join(text.strip() for text in texts if text.strip())


def _from_json(file: Path) -> str:
    return "\n".join(_lines(json.loads(file.read_text(encoding="utf-8"))))


def _lines(value: Any) -> Iterator[str]:
    """The strings that stand in lists: the lines of a poem, without its title and author."""
    inner = list(value.values()) if isinstance(value, dict) else value
    for item in inner:
        if isinstance(item, (dict, list)):
            yield from _lines(item)
        elif isinstance(item, str) and isinstance(value, list):
            yield item


def windows(tokenizer: Tokenizer, text: str, tokens: int, window: int) -> list[tuple[int, ...]]:
    """The first `tokens` tokens of a text, rounded down to whole windows, each begun as the vocabulary begins a text;
    fewer, down to none, where the text ends before."""
    ids = tokenizer.encode(text[: tokens * CHARACTERS_PER_TOKEN], add_bos=False, parse_special=False)
    whole = min(tokens, len(ids)) // window
    prefix = tokenizer.conventions.prefix_ids
    return [(*prefix, *ids[at : at + window]) for at in range(0, whole * window, window)]


def score(engine: Engine, cut: Windows, start: int) -> Scores:
    """Scores the tokens of each window from `start` on. Raises the RequestError of a window that is refused."""
    params = SamplingParams(max_tokens=0, logprobs=1, prompt_logprobs_from=start)
    completions = engine.generate([Request(str(index), ids, params) for index, ids in enumerate(cut)])
    for completion in completions:
        if completion.error is not None:
            raise completion.error
    scored = [item for completion in completions for item in completion.prompt_logprobs]
    return Scores(tuple(item.logprob for item in scored), tuple(item.top[0][0] for item in scored))


def compare(text: str, reference: Scores, served: Scores) -> Row:
    count = len(reference.logprobs)
    pairs = list(zip(reference.logprobs, served.logprobs, strict=True))
    choices = zip(reference.choices, served.choices, strict=True)
    return Row(
        text=text,
        tokens=count,
        reference=math.exp(-math.fsum(a for a, _ in pairs) / count),
        served=math.exp(-math.fsum(b for _, b in pairs) / count),
        logprob_difference=math.fsum(abs(a - b) for a, b in pairs) / count,
        same_choice=sum(a == b for a, b in choices) / count,
    )


def joined(parts: Iterable[Scores]) -> Scores:
    """Several texts as one."""
    every = list(parts)
    return Scores(
        tuple(value for part in every for value in part.logprobs),
        tuple(value for part in every for value in part.choices),
    )


def open_path(model: str, how: Mapping[str, Any], threads: int | None, cache_dtype: str = "auto") -> ServingModel:
    options = EngineOptions(prefix_cache=False, cache_dtype=cache_dtype)
    return open_engine(model, threads=threads, options=options, **how)


def score_texts(opened: ServingModel, texts: Mapping[str, str], tokens: int, window: int) -> dict[str, Scores]:
    """Every text that is long enough."""
    tokenizer = opened.model.tokenizer
    start = max(1, len(tokenizer.conventions.prefix_ids))
    found: dict[str, Scores] = {}
    for name, text in texts.items():
        cut = windows(tokenizer, text, tokens, window)
        if len(cut) == tokens // window:
            print(f"{name}: {len(cut)} windows", file=sys.stderr, flush=True)
            found[name] = score(opened.engine, cut, start)
    return found


def measure(
    model: str,
    texts: Mapping[str, str],
    tokens: int,
    window: int,
    threads: int | None,
    cache_dtype: str = "auto",
    reference_path: Mapping[str, Any] = REFERENCE,
) -> Measured:
    """Both paths on all texts, one after the other so that one model is held at a time. DataError when no text is long
    enough."""
    opened = open_path(model, reference_path, threads, "float32")
    weights = opened.model.checkpoint.sha256()
    reference = score_texts(opened, texts, tokens, window)
    if not reference:
        raise DataError(f"No text has {tokens} tokens.", hint="Lower --tokens.")
    del opened
    served = score_texts(open_path(model, SERVED, threads, cache_dtype), texts, tokens, window)
    return Measured(
        rows=tuple(compare(name, scores, served[name]) for name, scores in reference.items()),
        total=compare("total", joined(reference.values()), joined(served.values())),
        too_short=tuple(name for name in texts if name not in reference),
        weights_sha256=weights,
    )


def table(rows: Sequence[Row]) -> list[str]:
    width = max(len(row.text) for row in rows)
    head = f"{'text':{width}}  {'tokens':>7}  {'float32':>10}  {'served':>10}  {'differs':>8}"
    head += f"  {'|nats|':>7}  same choice"
    return [head] + [
        f"{row.text:{width}}  {row.tokens:7}  {row.reference:10.4f}  {row.served:10.4f}  {row.difference:+8.3%}"
        f"  {row.logprob_difference:7.4f}  {row.same_choice:11.2%}"
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True, help="Folder of texts.")
    parser.add_argument("--tokens", type=int, default=2048, help="Tokens of each text.")
    parser.add_argument("--window", type=int, default=512, help="Tokens that are scored together.")
    parser.add_argument("--cache-dtype", default="auto", help="How the served path keeps keys and values.")
    parser.add_argument(
        "--cache-alone", action="store_true", help="Against the served path with a float32 cache, not against float32."
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="File to write the result to.")
    arguments = parser.parse_args()
    if not 2 <= arguments.window <= arguments.tokens:
        parser.error("--window must be at least 2 and at most --tokens")
    try:
        texts = read_texts(arguments.text)
        reference = SERVED if arguments.cache_alone else REFERENCE
        how = (arguments.tokens, arguments.window, arguments.threads, arguments.cache_dtype, reference)
        found = measure(arguments.model, texts, *how)
    except LandraceError as error:
        sys.exit(" ".join(filter(None, (error.message, error.hint))))
    print("\n".join(table([*found.rows, found.total])))
    if found.too_short:
        print(f"Left out, with fewer than {arguments.tokens} tokens: {', '.join(found.too_short)}")
    if arguments.json:
        data = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()
        result = {
            "model": Path(arguments.model).name,
            "reference": {**reference, "cache_dtype": "float32"},
            "served": {**SERVED, "cache_dtype": arguments.cache_dtype},
            "tokens": arguments.tokens,
            "window": arguments.window,
            "rows": [row.as_dict() for row in found.rows],
            "total": found.total.as_dict(),
            "too_short": found.too_short,
            "provenance": asdict(Provenance.here(weights_sha256=found.weights_sha256, data_sha256=data)),
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
