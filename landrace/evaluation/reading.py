"""What reading an answer has in common for every kind: what is cut off first, boxes, sentences, refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass

from landrace.evaluation import lexicon
from landrace.evaluation.folding import Folded

_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL)
_CONTROL_MARK = re.compile(r"<\|[\w/ -]{1,40}\|>|</s>|<eos>|<end_of_turn>")
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\s*(?:<\|message\|>)?")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_LEAD = re.compile(r"[\s:=*\"'`_>#|~-]*")
_COLON = re.compile(r"[:：]")
_SENTENCE_END = re.compile(r"[!?\n。！？؟।॥]|\.(?!\d)")

MAX_SENTENCE = 400
MAX_COLON_ANSWER = 200


@dataclass(frozen=True)
class Reading:
    """What was read: `value`, or None; then `refused` says whether the answer declined to answer."""

    value: str | None
    refused: bool = False


UNREAD = Reading(None)


def strip_reasoning(answer: str) -> str:
    """The answer without `<think>...</think>`, where nothing but its text tells. Reasoning that never ends leaves no
    answer.

    Some templates open the reasoning in the prompt, so a lone `</think>` ends it too.
    """
    answer = _REASONING.sub("", answer)
    answer = answer.rpartition("</think>")[2]
    return answer.partition("<think>")[0]


def unmarked(answer: str) -> str:
    """The answer without channels before the last `final` one, and without left-over stop marks."""
    *_, last = _FINAL_CHANNEL.split(answer)
    return _CONTROL_MARK.sub("", last)


def boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` (or `\fbox`) holds; None without one, or if it is empty."""
    found = None
    for match in _BOX.finditer(text):
        inner = braced(text, match.end())
        found = inner if inner is not None else found
    return (found.strip() or None) if found is not None else None


def has_box(text: str) -> bool:
    return bool(_BOX.search(text))


def braced(text: str, start: int) -> str | None:
    """What stands in the braces that open at `start`, with braces inside balanced; None if they do not close."""
    if text[start : start + 1] != "{":
        return None
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return text[start + 1 : match.start()]
    return None


def plain_text(latex: str) -> str:
    r"""`latex` with `\text{...}` and its kin replaced by what they hold."""
    return _TEXT_COMMAND.sub(r"\1", latex)


def sentence_end(text: str, start: int) -> int:
    """Where the sentence around `start` ends, at most MAX_SENTENCE characters on: a longer one is cut."""
    limit = min(len(text), start + MAX_SENTENCE)
    match = _SENTENCE_END.search(text, start, limit)
    return match.start() if match else limit


def refusing(folded_text: str) -> bool:
    """Whether the folded text declines to answer."""
    return bool(lexicon.pattern(lexicon.REFUSES).search(folded_text))


def answering_parts(text: str) -> list[tuple[int, int]]:
    """Where the sentences of the folded text lie that do not decline to answer."""
    kept, start = [], 0
    while start < len(text):
        end = min(sentence_end(text, start) + 1, len(text))
        if not refusing(text[start:end]):
            kept.append((start, end))
        start = end
    return kept


def without_refusals(text: Folded) -> Folded:
    """The text without the sentences that decline to answer."""
    kept = [text.part(start, end) for start, end in answering_parts(text.text)]
    return Folded("".join(item.text for item in kept), "".join(item.cased for item in kept))


def naming_regions(text: str) -> list[tuple[int, int]]:
    """Where an answer is named: behind a naming phrase to the end of its sentence, and behind a colon in its line."""
    regions: list[tuple[int, int]] = []
    covered = 0
    for match in lexicon.pattern(lexicon.NAMES_AHEAD).finditer(text):
        if match.end() >= covered:
            lead = _LEAD.match(text, match.end())
            covered = sentence_end(text, lead.end() if lead else match.end())
        regions.append((match.end(), covered))
    ends = -1
    for match in _COLON.finditer(text):
        ends = ends if ends >= match.start() else line_end(text, match.start())
        if ends - match.end() <= MAX_COLON_ANSWER:
            regions.append((match.end(), ends))
    return regions


def line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
