"""The printable alphabet in which byte-level BPE vocabularies write their bytes (GPT-2's reversible mapping)."""

from __future__ import annotations


def _alphabet() -> dict[int, str]:
    """Printable Latin-1 bytes stand for themselves; the 68 others follow, in order, from code point 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in alphabet)
    return alphabet | {byte: chr(256 + index) for index, byte in enumerate(rest)}


BYTE_TO_CHAR = _alphabet()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def token_to_bytes(token: str) -> bytes:
    """The bytes a byte-level token stands for; a token with a character outside the alphabet is plain text."""
    try:
        return bytes([CHAR_TO_BYTE[char] for char in token])
    except KeyError:
        return token.encode("utf-8")


def bytes_to_token(data: bytes) -> str:
    """The spelling of `data` in a byte-level vocabulary."""
    return "".join([BYTE_TO_CHAR[byte] for byte in data])
