"""`Walk`: one answer's way through its guide, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from landrace.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from landrace.text.guides.vocabulary import GuideVocabulary


class Walk:
    """Everything it says is a function of the tokens before. After a token that may not come nothing may."""

    def __init__(self, vocabulary: GuideVocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._mask: bytearray | None = None
        self.forced: tuple[int, ...] = ()
        """The tokens that come next, where the guide leaves nothing else to the model."""
        self.complete = False
        """Whether the answer is whole and nothing can follow."""
        self._look_ahead()

    def __copy__(self) -> Walk:
        twin = Walk.__new__(Walk)
        twin.__dict__.update(self.__dict__)
        twin._matcher = self._matcher.deep_copy()
        return twin

    @property
    def mask(self) -> bytearray:
        """A bit for each token, 32 to a word: which may come next. Tokens that end an answer may where it is whole."""
        if self._mask is None:
            self._take(self._matcher.compute_bitmask())
        assert self._mask is not None
        return self._mask

    def _take(self, found: bytes) -> None:
        self._mask = bytearray(len(found)) if self._matcher.is_error() else self._vocabulary.known(found)

    @property
    def error(self) -> RequestError | None:
        """Why nothing may come next: a token before was not allowed, or to find out took too much."""
        if not self._matcher.is_error():
            return None
        return RequestError(f"The guide could not be followed further: {reason(self._matcher)}", field="guide")

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        return bool(self._matcher.validate_tokens([token]))

    def record(self, token: int) -> None:
        """Notes a token of the answer."""
        self._mask = None
        self.forced = self.forced[1:]
        self._matcher.consume_token(token)
        self._look_ahead()

    def _look_ahead(self) -> None:
        self.complete = self._matcher.is_stopped() and not self._matcher.is_error()
        if not self.forced and not self._matcher.is_stopped():
            self.forced = tuple(self._matcher.compute_ff_tokens())


def work_out_masks(walks: Sequence[Walk]) -> None:
    """The masks of walks of one vocabulary in one call: the interpreter's lock is given up once, not for each."""
    due = [walk for walk in walks if walk._mask is None]
    if not due:
        return
    vocabulary = due[0]._vocabulary
    n_bytes = 4 * vocabulary.n_words
    masks = np.zeros((len(due), n_bytes), dtype=np.uint8)
    matchers = [(walk._matcher, row) for row, walk in enumerate(due)]
    vocabulary.executor.unsafe_compute_mask_ptr(matchers, masks.ctypes.data, n_bytes, len(due))
    for walk, mask in zip(due, masks, strict=True):
        walk._take(mask.tobytes())


def reason(matcher: LLMatcher) -> str:
    """What a matcher says of its failure, in a short sentence."""
    return matcher.get_error().strip().partition("\n")[0][:300].rstrip(".") + "."
