"""Perplexity of a model as it is served against the same weights de-quantised to float32, text by text.

    python bench/perplexity.py MODEL.gguf --text FOLDER [--tokens 2048] [--window 512] [--threads N] [--json FILE]

Every `.txt`, `.xml` and `.json` file under FOLDER is one text; of each, the same number of tokens is scored, in windows
that know nothing of one another. Both paths go through the engine. Prints a table and, with `--json`, writes it with
where it comes from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from landrace.engine import EngineOptions
from landrace.errors import DataError, LandraceError
from landrace.evaluation.perplexity import Row, Scores, compare, cut, first_scored, joined, score
from landrace.ledger.provenance import Provenance
from landrace.model import ServingModel, open_engine
from landrace.text import Tokenizer

REFERENCE: Mapping[str, Any] = {"weights": "float32", "kernels": "reference"}
SERVED: Mapping[str, Any] = {"weights": "stored", "kernels": "cpu"}
"""How `open_engine` opens the two paths."""

CHARACTERS_PER_TOKEN = 16
"""More than the tokens of any text have on average: what lies beyond is not read."""


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
    """The first `tokens` tokens of a text in whole windows; fewer, down to none, where the text ends before."""
    ids = tokenizer.encode(text[: tokens * CHARACTERS_PER_TOKEN], add_bos=False, parse_special=False)
    return cut(tokenizer, ids[:tokens], window)


def open_path(model: str, how: Mapping[str, Any], threads: int | None) -> ServingModel:
    return open_engine(model, threads=threads, options=EngineOptions(prefix_cache=False), **how)


def score_texts(opened: ServingModel, texts: Mapping[str, str], tokens: int, window: int) -> dict[str, Scores]:
    """Every text that is long enough."""
    tokenizer = opened.model.tokenizer
    found: dict[str, Scores] = {}
    for name, text in texts.items():
        whole = windows(tokenizer, text, tokens, window)
        if len(whole) == tokens // window:
            print(f"{name}: {len(whole)} windows", file=sys.stderr, flush=True)
            found[name] = score(opened.engine, whole, first_scored(tokenizer))
    return found


def measure(model: str, texts: Mapping[str, str], tokens: int, window: int, threads: int | None) -> Measured:
    """Both paths on all texts, one after the other so that one model is held at a time. DataError when no text is long
    enough."""
    opened = open_path(model, REFERENCE, threads)
    weights = opened.model.checkpoint.sha256()
    reference = score_texts(opened, texts, tokens, window)
    if not reference:
        raise DataError(f"No text has {tokens} tokens.", hint="Lower --tokens.")
    del opened
    served = score_texts(open_path(model, SERVED, threads), texts, tokens, window)
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
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="File to write the result to.")
    arguments = parser.parse_args()
    if not 2 <= arguments.window <= arguments.tokens:
        parser.error("--window must be at least 2 and at most --tokens")
    try:
        texts = read_texts(arguments.text)
        found = measure(arguments.model, texts, arguments.tokens, arguments.window, arguments.threads)
    except LandraceError as error:
        sys.exit(" ".join(filter(None, (error.message, error.hint))))
    print("\n".join(table([*found.rows, found.total])))
    if found.too_short:
        print(f"Left out, with fewer than {arguments.tokens} tokens: {', '.join(found.too_short)}")
    if arguments.json:
        data = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()
        result = {
            "model": Path(arguments.model).name,
            "reference": REFERENCE,
            "served": SERVED,
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
