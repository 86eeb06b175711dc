"""Turns the Banking77 files (train.csv, test.csv) into a task: train.jsonl, test.jsonl and task.json.

    python examples/banking77/prepare.py FOLDER_WITH_THE_CSV_FILES --out runs/banking77-data

Banking77 (Casanueva et al., 2020) is CC BY 4.0; it is not part of this project.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows as {"id", "text", "intent"}; the intent's underscores become spaces, as a person would write it."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {"id": f"{path.stem}-{number}", "text": " ".join(row["text"].split()), "intent": label(row["category"])}
            for number, row in enumerate(csv.DictReader(file), start=1)
        ]


def label(category: str) -> str:
    return category.replace("_", " ").strip("?").lower()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with train.csv and test.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/banking77-data"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    labels: set[str] = set()
    for name in ("train", "test"):
        rows = read_rows(arguments.source / f"{name}.csv")
        labels |= {row["intent"] for row in rows}
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (arguments.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")
    task = {
        "name": "banking77",
        "kind": "classification",
        "data": "test.jsonl",
        "train": "train.jsonl",
        "mode": "plain",
        "template": "{text}\nIntent:",
        "answer_prefix": " ",
        "labels": sorted(labels),
        "fields": {"id": "id", "answer": "intent"},
        "max_tokens": 24,
        "stop": ["\n"],
    }
    (arguments.out / "task.json").write_text(json.dumps(task, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(labels)} intents; the task is {arguments.out / 'task.json'}")


if __name__ == "__main__":
    main()
