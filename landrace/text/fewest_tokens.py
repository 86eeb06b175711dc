"""How many tokens a text has at least, told from its length alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from landrace.text.borders import MARK_SPACES, steps_of
from landrace.text.byte_level import BYTE_TO_CHAR, token_to_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_NFC_SHRINKS = 3
"""Most bytes of UTF-8 that Unicode's NFC makes one byte of: the three letters of a Hangul syllable become one."""


@dataclass(frozen=True)
class FewestTokens:
    """A bound from below: bytes of the text over the bytes of the longest token.

    `longest` is None where a text may come to fewer tokens than that, because some of it can be left out. `dropped`
    are bytes that have no token. `nfc`: text is brought to Unicode NFC first.
    """

    longest: int | None
    dropped: bytes = b""
    nfc: bool = False

    @classmethod
    def of(cls, backend: Tokenizer) -> FewestTokens:
        """The bound that the parts of a `tokenizers` backend allow."""
        vocab, model = backend.get_vocab(), backend.model
        normalizer, cuts = steps_of(backend.normalizer), steps_of(backend.pre_tokenizer)
        if type(model).__name__ != "BPE" or any(step["type"] not in _KEEPING for step in (*normalizer, *cuts)):
            return cls(None)
        if any(step["type"] == "Replace" and step != MARK_SPACES for step in normalizer):
            return cls(None)
        if any(step.get("behavior") == "Removed" for step in cuts):
            return cls(None)
        if any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values()):
            return cls(None)
        nfc = any(step["type"] == "NFC" for step in normalizer)
        if cuts and cuts[-1]["type"] == "ByteLevel" and model.unk_token is None:
            missing = bytes(byte for byte, char in BYTE_TO_CHAR.items() if char not in vocab)
            return cls(max(len(token_to_bytes(token)) for token in vocab), missing, nfc)
        if model.byte_fallback and vocab.keys() >= _BYTE_TOKENS:
            return cls(max(len(token.encode("utf-8")) for token in vocab), b"", nfc)
        return cls(None)

    def count(self, text: str) -> int:
        """Tokens that `text` cannot be written with fewer of."""
        if self.longest is None:
            return 0
        most = self.longest * (_NFC_SHRINKS if self.nfc and not text.isascii() else 1)
        kept = text.encode("utf-8", errors="surrogatepass").translate(None, self.dropped)
        return -(-len(kept) // most)


_KEEPING = frozenset({"NFC", "Prepend", "Replace", "Split", "Digits", "ByteLevel", "Metaspace"})
"""Steps that leave nothing of a text out, given the conditions above."""
