"""`GuideCompiler`: guides to grammars, within bounds, for one tokenizer."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits

from landrace.errors import RequestError
from landrace.text.guides.guide import Guide
from landrace.text.guides.schema import checked_schema
from landrace.text.guides.vocabulary import GuideVocabulary
from landrace.text.guides.walk import Walk, reason

if TYPE_CHECKING:
    from landrace.text.tokenizer import Tokenizer

KEPT = 32
"""Compiled guides that are kept: requests repeat theirs, and the choices of one request share it."""
MAX_BYTES = 1 << 18
"""Of a guide's source."""
MAX_CHOICES = 8192
"""20,000 take 0.7 seconds."""
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # about 20 ms for all patterns of a guide
    step_lexer_fuel=200_000,  # about 15 ms for a token
    step_max_items=50_000,  # some milliseconds for a token; 130 ms where nothing but forced text comes of it
    max_items_in_row=2_000,
    max_lexer_states=50_000,  # at most 2 kB each, made as an answer comes to them: two a character of a bounded text
    max_grammar_size=500_000,
    verbose_errors=False,  # what they say goes to whoever asked
)
"""What a guide may cost, in the library's units: a hostile one ends in an error, whatever it says."""

JSON_FORMAT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value, that of `json.dumps`: what models have seen most, and forced tokens wherever the schema
leaves no choice."""


class GuideCompiler:
    """Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()
        self._kept: OrderedDict[Guide, LLMatcher] = OrderedDict()

    @cached_property
    def vocabulary(self) -> GuideVocabulary:
        return GuideVocabulary(self._tokenizer)

    def check(self, guide: Guide) -> None:
        """Raises RequestError, field `guide`, for one that cannot be followed."""
        self._compiled(guide)

    def walk(self, guide: Guide) -> Walk:
        """The beginning of an answer. RequestError as `check`."""
        return Walk(self.vocabulary, self._compiled(guide).deep_copy())

    def _compiled(self, guide: Guide) -> LLMatcher:
        with self._lock:
            found = self._kept.pop(guide, None)
            if found is None:
                found = self._compile(guide)
            self._kept[guide] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def _compile(self, guide: Guide) -> LLMatcher:
        try:
            size = len(guide.source.encode())
        except UnicodeEncodeError as error:
            raise RequestError("The guide is not Unicode text.", field="guide") from error
        if size > MAX_BYTES:
            raise RequestError(
                f"The guide has {size} bytes; the most is {MAX_BYTES}.", field="guide", hint="Make it shorter."
            )
        try:
            grammar = _grammar(guide)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"The guide cannot be read: {error}", field="guide") from error
        matcher = LLMatcher(self.vocabulary.native, grammar, log_level=0, limits=LIMITS)
        first = Walk(self.vocabulary, matcher.deep_copy())
        if matcher.is_error():
            raise RequestError(f"The guide cannot be followed: {reason(matcher)}", field="guide")
        if not (first.complete or any(first.mask)):
            raise RequestError("No answer is in the guide's language, or to begin one takes too much.", field="guide")
        return matcher


def _grammar(guide: Guide) -> str:
    """As llguidance reads it."""
    match guide.kind:
        case "json_schema":
            return _json_grammar(checked_schema(guide.source))
        case "json_object":
            return _json_grammar({"type": "object"})
        case "regex":
            return LLMatcher.grammar_from_regex(guide.source)
        case "choice":
            return LLMatcher.grammar_from_regex("|".join(map(re.escape, _choices(guide.source))))
        case "lark":
            return LLMatcher.grammar_from_lark(guide.source)


def _json_grammar(schema: Mapping[str, Any]) -> str:
    return LLMatcher.grammar_from_json_schema(json.dumps({"x-guidance": JSON_FORMAT, **schema}))


def _choices(source: str) -> list[str]:
    texts: list[str] = json.loads(source)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise RequestError("The choices must be texts, at least one, none of them empty.", field="guide")
    if len(texts) > MAX_CHOICES:
        raise RequestError(
            f"There are {len(texts)} choices; the most is {MAX_CHOICES}.", field="guide", hint="Offer fewer."
        )
    return texts
