"""A tokenizer as llguidance wants it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from llguidance import LLExecutor, LLTokenizer, TokenizerWrapper

if TYPE_CHECKING:
    from landrace.text.tokenizer import Tokenizer


class GuideVocabulary:
    """The bytes of every token, and how text within a text is written in tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        unused = tokenizer.conventions.unused_ids
        self._tokens = [b"" if i in unused else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self._thoughts: dict[tuple[str, bytes], bytearray] = {}
        self.ends = frozenset(index for index in tokenizer.eos_ids if index < tokenizer.vocab_size)
        wrapper = cast(TokenizerWrapper, _Wrapper(self, self._tokens, tokenizer.control_ids))
        self.native = LLTokenizer(wrapper, eos_token=sorted(self.ends) or None)
        self.executor = LLExecutor(1)
        """Works out masks; one thread, since kernels have the others."""
        self.n_words = -(-self.native.vocab_size // 32)
        """Of a mask: 32 tokens in each."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in the midst of another: of exactly its bytes."""
        data = text.encode()
        # A vocabulary may put a space before a text; behind a line break none does.
        for before in ("", "\n"):
            ids = self._tokenizer.encode(before + text, add_bos=False, parse_special=False)
            for start in range(min(len(ids), 3)):
                if self._bytes(ids[start:]) == data:
                    return ids[start:]
        return self.native.greedy_tokenize(text)

    def only(self, ids: Iterable[int]) -> bytearray:
        """The mask that allows these tokens."""
        mask = bytearray(4 * self.n_words)
        for index in ids:
            mask[index // 8] |= 1 << index % 8
        return mask

    def known(self, mask: bytes) -> bytearray:
        """The mask without a token that is none: where a vocabulary has none that ends an answer, the library adds
        one."""
        found = bytearray(mask)
        if not self.ends:
            _clear(found, range(len(self._tokens), 8 * len(found)))
        return found

    def without_ends(self, mask: bytearray) -> bytearray:
        """The mask without the tokens that end an answer; itself where it has no others."""
        left = bytearray(mask)
        _clear(left, self.ends)
        return left if any(left) else mask

    def thought(self, close: str, pending: bytes) -> bytearray:
        """The mask within a thought that ends with `close`, of which `pending` is there: everything but control tokens
        that do not belong to that mark, and tokens in which more than white space would follow it: what is said begins
        with a token of its own."""
        key = close, pending
        if key not in self._thoughts:
            self._thoughts[key] = self.only(self._in_thought(close, pending))
        return self._thoughts[key]

    def _in_thought(self, close: str, pending: bytes) -> Iterator[int]:
        marks = frozenset(self._tokenizer.encode(close, add_bos=False))
        control = self._tokenizer.control_ids - marks | self.ends
        for index, data in enumerate(self._tokens):
            beyond = (pending + data).partition(close.encode())[2]
            if data and index not in control and not beyond.strip():
                yield index

    def _bytes(self, ids: list[int]) -> bytes:
        return b"".join(map(self._tokenizer.token_bytes, ids))


def _clear(mask: bytearray, ids: Iterable[int]) -> None:
    for index in ids:
        mask[index // 8] &= ~(1 << index % 8)


class _Wrapper:
    """What `LLTokenizer` reads of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: GuideVocabulary, tokens: list[bytes], control: Collection[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = sorted(control)
        self.eos_token_id = min(vocabulary.ends, default=None)
        """None: a token that no model has ends an answer."""
        self._vocabulary = vocabulary

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.encode(text)


def either(one: bytearray, other: bytearray) -> bytearray:
    """The mask that allows what one of two does."""
    union = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return bytearray(union.to_bytes(len(one), "little"))
