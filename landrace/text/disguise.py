"""Text of callers is text: a control token spelled out in a conversation does not become one.

Before a template writes a conversation, the text of every control token in it is hidden behind a code of digits, which
no template has an opinion of. The control tokens that then stand in the writing are the template's own. They are
encoded by a twin of the vocabulary in which control tokens are spelled with other codes, so that the hidden texts, back
in place, are ordinary text, while everything around them is cut exactly as always.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any

from landrace.errors import RequestError
from landrace.text.chat_template import ChatTemplate, TemplateInput, Written
from landrace.text.outline import outline
from landrace.text.tokenizer import Tokenizer

Change = Callable[[str], str]

_PROTOCOL = frozenset(
    ["system", "developer", "user", "assistant", "tool", "function", "text", "object", "array", "string"]
)
"""Values of `role` and `type` that templates compare, and may write inside a mark of their own."""
_EDGE = "\U0010fffd"
"""A private character around the twin's spellings, so that no word goes on into one."""
_SHORT = 3
_BEFORE, _AFTER = "Landrace-7f3a", "Landrace-9b1c"


class Disguise:
    """The control tokens of one vocabulary and its template, and codes to hide their texts behind in a conversation.

    RequestError for a model without a chat template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.chat_template is None:
            raise RequestError(
                "This model has no chat template, as a base model has none: it continues a text.",
                field="messages",
                hint="Send a plain prompt (`landrace run --raw`, or completions), tune the model on conversations, or "
                "put its maker's chat_template.jinja into the model's folder.",
            )
        self.template = tokenizer.chat_template
        self._tokenizer = tokenizer
        control = tokenizer.control_ids | _turn_marks(tokenizer, tokenizer.chat_template)
        texts = {i: text for i in sorted(control) if (text := tokenizer.token_text(i))}
        self._texts = sorted(texts.values(), key=len, reverse=True)
        self._marks = _finder(tuple(self._texts))
        # Nobody can guess the codes, so nobody can write one into a conversation.
        self._whole, self._single, self._spelled = (str(10**19 + secrets.randbelow(9 * 10**19)) for _ in range(3))
        self._numbers = {text: number for number, text in enumerate(self._texts)}
        self._spellings = {i: f"{_EDGE}{self._spelled}{self._numbers[text]:06}{_EDGE}" for i, text in texts.items()}
        self._code = re.compile(rf"{self._whole}(\d{{6}})|{self._single}(\d{{7}})")
        self._read: dict[str, bool] = {}

    def write(self, fitted: TemplateInput) -> str:
        """The template's text of a conversation, with the texts of control tokens hidden in it.

        `reveal` gives the text as it is, `encode` its tokens. Raises what `ChatTemplate.write` raises.
        """
        hidden = self._hide(fitted)
        written = self._written(hidden)
        text, sketch = written.text, written.outline
        between = outline(hidden.messages, hidden.tools)
        rest = replace(hidden, messages=between.messages, tools=between.tools)
        if (
            sketch is not None
            and self._marks.findall(text) == self._marks.findall(sketch)
            and rest == self._guard(rest)
        ):
            return text
        # There may be marks that the template does not write by itself. Did the ends of two texts make one?
        guarded = self._written(self._guard(hidden)).text
        bare = self._code.sub(lambda code: code[0] if code[1] else chr(int(code[2])), guarded)
        return text if self._marks.findall(bare) == self._marks.findall(guarded) else guarded

    def reveal(self, text: str) -> str:
        """What `write` gave, or a piece of it, with everything in place."""
        return self._code.sub(lambda code: self._texts[int(code[1])] if code[1] else chr(int(code[2])), text)

    def encode(self, text: str, *, limit: int | None = None) -> list[int]:
        """Token ids of what `write` gave, or of a piece of it: only the template's own marks are control tokens.

        Raises PromptTooLongError for more than `limit`.
        """
        if not self._code.search(text):
            return self._tokenizer.encode(text, add_bos=False, limit=limit)
        twin, ids, spellings = self._twin
        spelled = self._marks.sub(lambda mark: spellings[mark[0]], text)
        return [ids.get(index, index) for index in twin.encode(self.reveal(spelled), add_bos=False, limit=limit)]

    @cached_property
    def _twin(self) -> tuple[Tokenizer, dict[int, int], dict[str, str]]:
        """The vocabulary with other spellings of its control tokens, its ids, and the spellings by the real text."""
        twin, ids = self._tokenizer.respelled(self._spellings)
        return twin, ids, {self._tokenizer.token_text(i) or "": text for i, text in self._spellings.items()}

    def _written(self, fitted: TemplateInput) -> Written:
        try:
            return self.template.write(fitted)
        except RequestError as error:
            raise RequestError(self.reveal(error.message), field=error.field, hint=error.hint) from error

    def hide(self, text: str, *, in_answer: bool = False) -> str:
        """A text with the texts of control tokens hidden; in an answer, without those that the template acts on."""

        def code(mark: re.Match[str]) -> str:
            if in_answer and self._is_read(mark[0]):
                return mark[0]
            return f"{self._whole}{self._numbers[mark[0]]:06}"

        return self._marks.sub(code, text)

    def _hide(self, fitted: TemplateInput) -> TemplateInput:
        messages = _changed(fitted.messages, self.hide, self.hide)
        for message, hidden in zip(fitted.messages, messages, strict=True):
            if message["role"] == "assistant":
                hidden["content"] = _changed(message["content"], partial(self.hide, in_answer=True), self.hide)
        return self._with(fitted, messages, self.hide, self.hide)

    def _is_read(self, mark: str) -> bool:
        """Whether the template acts on this mark in an assistant's content, as some split it at the end of a thought
        that is a control token: it must go on doing so."""
        if mark not in self._read:
            self._read[mark] = any(
                plain is not None and marked is not None and _BEFORE + _AFTER in plain and both not in marked
                for last in (True, False)
                for both in [_BEFORE + mark + _AFTER]
                for plain, marked in [(self._answer(_BEFORE + _AFTER, last), self._answer(both, last))]
            )
        return self._read[mark]

    def _answer(self, content: str, last: bool) -> str | None:
        messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": content}]
        messages += [] if last else messages[:1]
        try:
            return self.template.render(messages, add_generation_prompt=not last)
        except RequestError:
            return None

    def _guard(self, fitted: TemplateInput) -> TemplateInput:
        messages = _changed(fitted.messages, self._guarded, self._guarded_ends)
        return self._with(fitted, messages, self._guarded, self._guarded_ends)

    def _with(self, fitted: TemplateInput, messages: Any, change: Change, change_key: Change) -> TemplateInput:
        variables = _changed(dict(fitted.variables), change, change_key)
        return replace(fitted, messages=messages, tools=_changed(fitted.tools, change, change_key), variables=variables)

    def _guarded(self, text: str) -> str:
        """A text that cannot become a control token together with what is written before and behind it."""
        guarded = self._guarded_ends(text)
        if guarded == text and any(text in mark for mark in self._texts):
            return self._guarded_character(text[0]) + text[1:] if text else text
        return guarded

    def _guarded_ends(self, text: str) -> str:
        starts, ends = self._pieces
        if text[-1:] not in self._pieces_edges[0] and text[:1] not in self._pieces_edges[1]:
            return text  # nearly every text
        longest = len(self._texts[0]) if self._texts else 0
        sizes = range(1, min(len(text) + 1, longest))
        codes = [code.span() for code in self._code.finditer(text)]
        if any(text[-size:] in starts for size in sizes) and not any(end == len(text) for _, end in codes):
            text = text[:-1] + self._guarded_character(text[-1])
        if any(text[:size] in ends for size in sizes) and not any(start == 0 for start, _ in codes):
            text = self._guarded_character(text[0]) + text[1:]
        return text

    def _guarded_character(self, character: str) -> str:
        return f"{self._single}{ord(character):07}"

    @cached_property
    def _pieces(self) -> tuple[frozenset[str], frozenset[str]]:
        """What the texts of control tokens start with, and what they end with."""
        texts = [(text, size) for text in self._texts for size in range(1, len(text))]
        return frozenset(text[:size] for text, size in texts), frozenset(text[size:] for text, size in texts)

    @cached_property
    def _pieces_edges(self) -> tuple[frozenset[str], frozenset[str]]:
        """The last characters of what control tokens start with, and the first of what they end with."""
        starts, ends = self._pieces
        return frozenset(piece[-1] for piece in starts), frozenset(piece[0] for piece in ends)


@lru_cache(maxsize=16)
def _finder(texts: tuple[str, ...]) -> re.Pattern[str]:
    """Finds any of the texts: the longest of those that begin at one place, as the tokenizer does."""
    return re.compile(_branches(set(texts)) if texts else "(?!)")


def _branches(texts: set[str]) -> str:
    """A pattern that looks at each character once, however many texts begin alike."""
    tails: dict[str, set[str]] = {}
    for text in texts - {""}:
        tails.setdefault(text[0], set()).add(text[1:])
    branches = []
    for first, rest in sorted(tails.items()):
        low, high = min(rest), max(rest)
        size = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
        branches.append(re.escape(first + low[:size]) + _branches({tail[size:] for tail in rest}))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"


def _turn_marks(tokenizer: Tokenizer, template: ChatTemplate) -> set[int]:
    """Added tokens that part the turns of a conversation, though the vocabulary calls some of them text.

    Those around a user's message, and one that follows it at once: the mark of the assistant's turn. Short tokens
    (line breaks, punctuation) are no marks, and neither are those inside the assistant's turn (`<think>`).
    """
    around, behind = template.around_turns
    found = tokenizer.added_ids(around)
    first = tokenizer.encode(behind.lstrip(), add_bos=False)[:1]
    found += [index for index in first if index in tokenizer.added_ids(behind)]
    return {index for index in found if len((tokenizer.token_text(index) or "").strip()) > _SHORT}


def _changed(value: Any, change: Change, change_key: Change, key: str = "") -> Any:
    """A copy with every text and every key changed."""
    if isinstance(value, str):
        return value if key in ("role", "type") and value in _PROTOCOL else change(value)
    if isinstance(value, list):
        return [_changed(item, change, change_key) for item in value]
    if isinstance(value, dict):
        return {change_key(name): _changed(item, change, change_key, name) for name, item in value.items()}
    return value
