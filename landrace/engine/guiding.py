"""`Guiding`: which tokens an answer may go on with, from its first thought to its last token."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from landrace.engine.request import Request
from landrace.engine.thinking import Thinking
from landrace.errors import RequestError
from landrace.text import Tokenizer
from landrace.text.answers import AnswerForm
from landrace.text.answers.grammar import Thought
from landrace.text.guides import Walk, either

TAIL = 16
"""So many tokens of a prompt tell which frame it has begun."""


class Guiding:
    """Follows one answer through its guide, which begins where its thoughts end.

    Before that the model may write freely within a thought, and around it what its family does: the mark that opens a
    thought, or, where every part has a frame, the one that opens what is said.
    """

    @classmethod
    def of(cls, request: Request, tokenizer: Tokenizer) -> Guiding | None:
        """None for a request without a guide. RequestError for one that cannot be followed."""
        return None if request.guide is None else cls(request, tokenizer.guides.walk(request.guide), tokenizer)

    def __init__(self, request: Request, walk: Walk, tokenizer: Tokenizer) -> None:
        self._vocabulary = tokenizer.guides.vocabulary
        self._goes_on = request.params.ignore_eos
        self._fresh = walk
        self._walk: Walk | None = copy(walk)
        """None: nothing of the guide can be written yet."""
        self._close, self._pending = "", b""
        """The mark that ends a thought, and what of it is there."""
        self._openings: tuple[tuple[int, ...], ...] = ()
        """What may be written instead before the guide begins, as tokens."""
        self._begun = request.answer is None or request.answer.grammar.thought is None
        """Whether all tokens from here on are the guide's."""
        self._mask: Tensor | None = None
        if request.answer is not None and request.answer.grammar.thought is not None:
            self._expect(request.answer, request.answer.grammar.thought, request.prompt_ids, tokenizer)

    def _expect(self, form: AnswerForm, thought: Thought, prompt_ids: Sequence[int], tokenizer: Tokenizer) -> None:
        """Takes up what may come before the guide."""
        self._close = thought.close
        if form.begins_in_thought:
            self._walk = None
            return
        openings = [thought.open]
        if form.grammar.framed and not form.tools:
            self._walk = None
            prompt = b"".join(tokenizer.token_bytes(token) for token in prompt_ids[-TAIL:]).decode(errors="replace")
            openings.append(_without_overlap(prompt, thought.end.partition(thought.close)[2]))
        self._openings = tuple(tuple(tokenizer.encode(text, add_bos=False)) for text in openings)

    def __copy__(self) -> Guiding:
        twin = Guiding.__new__(Guiding)
        twin.__dict__.update(self.__dict__)
        twin._walk = copy(self._walk)
        return twin

    @property
    def forced(self) -> int | None:
        """The token that comes next whatever the model chooses."""
        if self._begun:
            return self._walk.forced[0] if self._walk is not None and self._walk.forced else None
        nexts = {opening[0] for opening in self._openings}
        return nexts.pop() if self._walk is None and len(nexts) == 1 else None

    @property
    def walk(self) -> Walk | None:
        """The way through the guide, where its mask is one for the next token."""
        return self._walk

    @property
    def begun(self) -> bool:
        """Whether all further tokens are the guide's."""
        return self._begun

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return self._begun and self._walk is not None and self._walk.complete

    @property
    def error(self) -> RequestError | None:
        """Why no token may come next."""
        return None if self._walk is None else self._walk.error

    @property
    def mask(self) -> Tensor:
        """int32 [n]: which tokens may come next, as `SamplingRule` says."""
        if self._mask is None:
            self._mask = torch.frombuffer(self._allowed(), dtype=torch.int32)
        return self._mask

    def _allowed(self) -> bytearray:
        if self._walk is None and not self._openings:
            return self._vocabulary.thought(self._close, self._pending)
        if self._openings:
            mask = self._vocabulary.only(opening[0] for opening in self._openings)
            if self._walk is not None:
                mask = either(mask, self._walk.mask)
        else:
            assert self._walk is not None
            mask = self._walk.mask
        return self._vocabulary.without_ends(mask) if self._goes_on else mask

    def record(self, token: int, thinking: Thinking | None) -> None:
        """Notes a token of the answer. `thinking` has noted it already, unless the guide had begun."""
        self._mask = None
        if self._begun:
            assert self._walk is not None
            self._walk.record(token)
        elif thinking is not None and thinking.goes_on:
            self._walk, self._openings, self._pending = None, (), thinking.pending
        else:
            self._approach(token)

    def _approach(self, token: int) -> None:
        """Notes a token that is of no thought, before the guide is known to have begun."""
        left = tuple(opening[1:] for opening in self._openings if opening[0] == token)
        if not self._openings or () in left:  # behind a thought, or behind the mark that opens what is said
            self._walk, self._openings, self._begun = copy(self._fresh), (), True
        elif left:
            if self._walk is not None and not self._walk.allows(token):
                self._walk = None
            self._openings = left
            if self._walk is not None:
                self._walk.record(token)
        else:
            self._openings, self._begun = (), True
            self._walk = self._walk or copy(self._fresh)
            self._walk.record(token)


def _without_overlap(prompt: str, text: str) -> str:
    """`text` without what the prompt ends with of its beginning."""
    sizes = range(min(len(prompt), len(text)), 0, -1)
    return text[next((n for n in sizes if prompt.endswith(text[:n])), 0) :]
