"""`uniform`: the random number behind each token that is drawn, as a function of its place alone. Imports no torch."""

from __future__ import annotations

import struct
from hashlib import blake2b


def uniform(seed: int, index: int) -> float:
    """A number from [0, 1), in steps of 2**-53, for the output token `index` of a request with `seed`.

    Nothing else decides it: not what else is in the batch, how often a step is computed again, or the machine. Seeds
    count modulo 2**64. A hash (BLAKE2b), so that numbers of neighbouring seeds or indices have nothing in common.
    """
    digest = blake2b(struct.pack("<QQ", seed % 2**64, index), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
