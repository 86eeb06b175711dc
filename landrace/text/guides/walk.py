"""`Walk`: one answer's way through its guide, token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
            mask = self._vocabulary.known(self._matcher.compute_bitmask())
            self._mask = bytearray(len(mask)) if self._matcher.is_error() else mask
        return self._mask

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


def reason(matcher: LLMatcher) -> str:
    """What a matcher says of its failure, in short."""
    return matcher.get_error().strip().partition("\n")[0][:300]
