"""What tests of guided answers share: a model of a small vocabulary, requests of every kind, and who may judge them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import jsonschema
from guided_text import small_vocabulary

from landrace.engine import Completion, Request, SamplingParams
from landrace.text import Tokenizer
from landrace.text.answers import AnswerForm
from landrace.text.answers.grammar import CONTENT, REASONING, Grammar, Thought
from landrace.text.answers.grammars import GRAMMARS, PLAIN
from landrace.text.guides import Guide

WORDS: Tokenizer = small_vocabulary()
VOCAB = WORDS.vocab_size + 6
"""The model has rows for which there is no token."""
THINKS: Grammar = PLAIN.thinking(Thought("<think>", "</think>", "\n</think>\n\n"))
HARMONY: Grammar = GRAMMARS[0]
WORDS.__dict__["answer_grammar"] = HARMONY  # As if a template had shown it: its marks are no text.
RECORD = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["refund", "cancel", "book a seat"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}$"},
        "people": {"type": "integer", "minimum": 1, "maximum": 20},
        "summary": {"type": "string", "maxLength": 5},
    },
    "required": ["intent", "code", "people"],
    "additionalProperties": False,
}
PATTERN = r"(yes|no), [a-d]{2,5}!"
CHOICES = ["a refund of all that was paid", "a refund", "nothing"]
LARK = 'start: NUMBER | "(" start ("+" | "-") start ")"\nNUMBER: /[0-9]/'


def _is_record(text: str) -> bool:
    jsonschema.validate(json.loads(text), RECORD)
    return True


def _is_sum(text: str) -> bool:
    return re.fullmatch(r"[0-9()+-]+", text) is not None and isinstance(eval(text), int)


GUIDES: dict[str, tuple[Guide, Callable[[str], Any]]] = {
    "schema": (Guide.of_schema(RECORD), _is_record),
    "pattern": (Guide.of_regex(PATTERN), re.compile(PATTERN).fullmatch),
    "choice": (Guide.of_choices(CHOICES), CHOICES.__contains__),
    "lark": (Guide.of_lark(LARK), _is_sum),
}
CLOSE = WORDS.token_id("</think>")
FORMS: dict[str, tuple[AnswerForm | None, str, dict[str, Any]]] = {
    "none": (None, "", {}),
    "silent": (AnswerForm(THINKS, CONTENT), "", {}),
    "in a thought": (AnswerForm(THINKS, REASONING), "<think>", {"thinking_budget": 4}),
    "ends its thought": (AnswerForm(THINKS, REASONING), "<think>", {"logit_bias": {CLOSE: 9.0}}),
    "harmony": (AnswerForm(HARMONY, HARMONY.start), "<|start|>assistant", {"thinking_budget": 3}),
}
"""The form of an answer, the end of its prompt, and what goes with it."""
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 1, "logprobs": 2},
    {"temperature": 1.5, "seed": 2, "top_k": 40, "top_p": 0.9},
    {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 1.0, "seed": 3, "min_p": 0.05, "ignore_eos": True},
]


def request(
    name: str, guide: str | None, form: str = "none", *, prompt: Sequence[int] = (5, 9, 7), **params: Any
) -> Request:
    answer, end, own = FORMS[form]
    ids = (*prompt, *WORDS.encode(end, add_bos=False))
    sampling = SamplingParams(**{"max_tokens": 120, **own, **params})
    return Request(name, ids, sampling, answer=answer, guide=None if guide is None else GUIDES[guide][0])


def requests_of(random: Random) -> list[Request]:
    """Guided ones of every kind, and strangers among them, with prompts that share their beginnings."""
    result = []
    beginnings = [[random.randrange(256) for _ in range(24)] for _ in range(2)]
    for number, (guide, form) in enumerate((guide, form) for form in FORMS for guide in (*GUIDES, None)):
        own = [random.randrange(256) for _ in range(random.randrange(1, 9))]
        kind = KINDS[number % len(KINDS)]
        if guide is None:
            kind = {**kind, "max_tokens": 30}
        prompt = (*beginnings[number % 2], *own)
        result.append(request(f"{number} {form} {guide}", guide, form, prompt=prompt, **kind))
    return result


def said(answer: Completion, asked: Request) -> str:
    """What it says, without its thoughts."""
    return answer.text if asked.answer is None else answer.parts.content


def judge(answer: Completion, asked: Request) -> None:
    """A guided answer that ended by itself is in its guide's language; one that was cut says so."""
    assert answer.error is None, answer.error
    kinds = dict(GUIDES.values())
    if asked.guide is not None and answer.finish_reason == "stop":
        assert kinds[asked.guide](said(answer, asked)), answer.text
    elif asked.guide is not None:
        assert answer.finish_reason == "length"
