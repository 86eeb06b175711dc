"""`run` shows thoughts apart from answers: in a pipe and as JSON; test_terminal.py has the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from reciting_model import ENDLESS, THINKING, write_reciting_model

GREEDY = ("--temperature", "0", "--threads", "1")
Landrace = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("reciting")
    return str(write_reciting_model(path / "model", path / "extras", ENDLESS, THINKING))


def test_a_line_parts_thought_and_answer_in_a_pipe(landrace: Landrace, thinker: str) -> None:
    status, out, _ = landrace("run", thinker, "Is it?", "--think", "3", *GREEDY)
    assert (status, out) == (0, "Hm So Hm\n\n---\n\nSure.\n")
    assert landrace("run", thinker, "Is it?", "--think", "off", *GREEDY)[1] == "Sure.\n"
    assert landrace("run", thinker, "Is it?", "--think", "on", "--max-tokens", "3", *GREEDY)[1] == "Hm So\n\n---\n"


def test_json_has_both(landrace: Landrace, thinker: str) -> None:
    told = json.loads(landrace("run", thinker, "Is it?", "--think", "3", "--json", *GREEDY)[1])
    assert (told["text"], told["reasoning"], told["reasoning_tokens"]) == ("Sure.", "Hm So Hm", 3)
    raw = json.loads(landrace("run", thinker, "it\n", "--raw", "--json", *GREEDY)[1])
    assert raw["text"] == "Sure."
    assert "reasoning" not in raw


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--think", "much"], "on, off or a number"),
        (["--effort", "high"], "reasoning_effort"),
        (["--think", "3", "--raw"], "--raw"),
    ],
)
def test_what_cannot_be_honoured_is_refused(landrace: Landrace, thinker: str, options: list[str], fault: str) -> None:
    status, out, err = landrace("run", thinker, "Is it?", *options, *GREEDY)
    assert (status != 0, out) == (True, "")
    assert fault in err


def test_answers_are_held_to_a_schema_a_pattern_or_choices(landrace: Landrace, thinker: str, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    short = (*GREEDY, "--think", "off")
    status, out, _ = landrace("run", thinker, "Is it?", "--schema", str(tmp_path / "schema.json"), *short)
    assert (status, json.loads(out)["n"] in (1, 2)) == (0, True)
    assert landrace("run", thinker, "Is it?", "--choice", "yes", "--choice", "no", *short)[1] in ("yes\n", "no\n")
    assert landrace("run", thinker, "Is it?", "--regex", "a{3}", "--raw", *GREEDY)[1] == "aaa\n"
    status, out, err = landrace("run", thinker, "Is it?", "--regex", "a{30}", "--max-tokens", "5", *short)
    assert (status, out) == (0, "aaaaa\n")
    assert "cut" in err


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--regex", "a", "--choice", "b"], "both say"),
        (["--regex", "a(?=b)"], "cannot be followed"),
        (["--schema", "nowhere.json"], "cannot be read"),
    ],
)
def test_a_guide_that_is_none_is_refused(landrace: Landrace, thinker: str, options: list[str], fault: str) -> None:
    status, out, err = landrace("run", thinker, "Is it?", *options, *GREEDY)
    assert (status != 0, out) == (True, "")
    assert fault in err
