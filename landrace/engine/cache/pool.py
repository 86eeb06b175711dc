"""`BlockPool`: who holds which cache block, and which blocks can be shared. Bookkeeping only, without torch.

A block is free (no holder) or used (one or more). A free block may still be published: its contents are
intact and a later request with the same beginning may take it back, until it is given to somebody else.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b


def root_hash(*facts: object) -> bytes:
    """Start of a hash chain: everything besides the tokens that decides a block's keys and values."""
    return blake2b(repr(facts).encode(), digest_size=32).digest()


def chain_hash(parent: bytes, tokens: Sequence[int], extra: bytes = b"") -> bytes:
    """Hash of a full block: its own tokens and, through `parent`, all that came before. `extra`: what else decides what
    the block holds, a picture behind its placeholder tokens for instance.

    Cryptographic, since a collision would hand one user the cache of another.
    """
    # All blocks have one length, so where the tokens end and `extra` begins is never in doubt.
    return blake2b(array("q", tokens).tobytes() + extra, digest_size=32, key=parent).digest()


class BlockPool:
    """`n_blocks` blocks with reference counts.

    The free list is taken from its front. Unpublished blocks enter at the front. Published ones enter at the back, the
    last block of a sequence first, so the least recently used go first and leaves go before their roots.
    """

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        self.references = [0] * n_blocks
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))
        self.hashes_of: dict[int, list[bytes]] = {}
        self.block_of: dict[bytes, int] = {}

    @property
    def n_held(self) -> int:
        """Blocks that somebody holds."""
        return self.n_blocks - len(self.free)

    @property
    def n_reusable(self) -> int:
        """Free blocks that are still published."""
        published = list(self.hashes_of)  # at once: this is asked for while another thread steps
        return sum(self.references[block] == 0 for block in published)

    def lookup(self, hashes: Sequence[bytes]) -> list[int]:
        """Published blocks of the longest known beginning of `hashes`. Changes nothing."""
        blocks = []
        for digest in hashes:
            block = self.block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def fits(self, shared: Sequence[int], fresh: int) -> bool:
        """Whether `shared` can be held and `fresh` further blocks taken."""
        return fresh + sum(block in self.free for block in shared) <= len(self.free)

    def share(self, blocks: Sequence[int]) -> None:
        """Adds a holder to published blocks."""
        for block in blocks:
            if self.references[block] == 0:
                del self.free[block]
            self.references[block] += 1

    def take(self, count: int) -> list[int]:
        """Gives out `count` free blocks and forgets what they held. The caller has checked that they are there."""
        blocks = []
        for _ in range(count):
            block, _ = self.free.popitem(last=False)
            self.forget(block)
            self.references[block] = 1
            blocks.append(block)
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Takes one holder from each block of a sequence, given in order of position."""
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free[block] = None
                if block not in self.hashes_of:
                    self.free.move_to_end(block, last=False)

    def publish(self, block: int, digest: bytes) -> None:
        """Offers a computed block, or what is computed of one, for sharing. A second block with the same contents stays
        private."""
        if digest not in self.block_of:
            self.hashes_of.setdefault(block, []).append(digest)
            self.block_of[digest] = block

    def withdraw(self, digest: bytes) -> None:
        """Stops offering what a digest names, if anything."""
        block = self.block_of.get(digest)
        if block is not None:
            self.forget(block)

    def forget(self, block: int) -> None:
        """Stops offering a block, if it was."""
        for digest in self.hashes_of.pop(block, ()):
            del self.block_of[digest]
