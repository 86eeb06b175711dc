"""`PagedGroup`: blocks of consecutive positions, of which a request holds those that its later tokens see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from landrace.engine.cache.pool import BlockPool
from landrace.engine.facts import CacheFacts
from landrace.engine.options import EngineOptions
from landrace.models.cache_spec import Paged


@dataclass(eq=False)
class BlockTable:
    """The blocks one request holds, in order of position."""

    first: int = 0
    """How many blocks of its beginning it does not hold, since none of its later tokens sees them."""
    blocks: list[int] = field(default_factory=list)
    copied: int | None = None
    """Another's block, which its next one is to begin with a copy of."""

    @property
    def end(self) -> int:
        """How many blocks there are from position 0 to where the table ends."""
        return self.first + len(self.blocks)

    def block_at(self, index: int) -> int:
        """The block of positions index * block_size and on."""
        return self.blocks[index - self.first]


class PagedGroup:
    """A pool of blocks under one mask.

    Where a position sees all of its past, a newcomer gets blocks for all its tokens, so that its prompt never runs dry.
    Under a window it takes them from step to step, for what that step computes, as it gives others back.

    Blocks have `block_size` entries each. Where an entry stands for several positions, a block has the names of all
    blocks of positions that end while it is filled, each for the entries that are there by then. Who goes on from some
    of its entries has a copy, since others go on from them otherwise.
    """

    def __init__(self, spec: Paged, n_blocks: int, block_size: int) -> None:
        self.spec = spec
        self.pool = BlockPool(n_blocks)
        self._entries = block_size
        self._size = block_size * spec.every
        """Positions of a block."""
        self._copies: list[tuple[int, int]] = []

    def new(self) -> BlockTable:
        return BlockTable()

    def usable(self, hashes: Sequence[bytes], limit: int) -> int:
        n_blocks, named = limit // self._size, self._names(hashes)
        if self.spec.reach is None:
            return self._begun(hashes, len(self.pool.lookup(named[:n_blocks])) * self._size, limit)
        while n_blocks > 0:
            needed = range(n_blocks - 1, self._first_seen(n_blocks * self._size) - 1, -1)
            missing = next((index for index in needed if named[index] not in self.pool.block_of), None)
            if missing is None:
                break
            n_blocks = missing  # whatever lies further on needs this one as well
        return n_blocks * self._size

    def fits(self, hashes: Sequence[bytes], length: int, held: int, headroom: int) -> bool:
        shared = [self.pool.block_of[digest] for digest in self._needed(hashes, length)]
        fresh = self._blocks(self._reserved(length, held)) - length // self._size
        # A pool of windows is made for all who run (`blocks_of`), and needs no headroom.
        return self.pool.fits(shared, fresh + (headroom if self.spec.reach is None else 0))

    def attach(self, table: BlockTable, hashes: Sequence[bytes], length: int) -> None:
        table.first = self._first_seen(length)
        table.blocks = [self.pool.block_of[digest] for digest in self._needed(hashes, length)]
        self.pool.share(table.blocks)
        if self._n_entries(length) % self._entries:
            table.copied = self.pool.block_of[hashes[length // self._entries - 1]]

    def reserve(self, table: BlockTable, held: int) -> None:
        first = table.end
        self.extend(table, self._reserved(first * self._size, held))
        if table.copied is not None:
            self._copies.append((table.copied, table.block_at(first)))

    def grows(self, table: BlockTable, end: int) -> bool:
        return self.pool.fits((), self._blocks(end) - table.end)

    def extend(self, table: BlockTable, end: int) -> None:
        table.blocks += self.pool.take(self._blocks(end) - table.end)

    def cut(self, cached: int, end: int) -> int:
        return end

    def committed(self, table: BlockTable, hashes: Sequence[bytes], before: int, cached: int, sure: int) -> None:
        for index in range(before // self._entries, len(hashes)):
            end = (index + 1) * self._entries
            if end % self._size == 0 or self._n_entries(end) % self._entries:
                self.pool.publish(table.block_at((end - 1) // self._size), hashes[index])
        unseen = self._first_seen(cached) - table.first
        if unseen > 0:
            self.pool.release(table.blocks[:unseen])
            del table.blocks[:unseen]
            table.first += unseen

    def release(self, table: BlockTable) -> None:
        self.pool.release(table.blocks)
        table.blocks = []

    def withdraw(self, hashes: Sequence[bytes]) -> None:
        for digest in hashes:
            self.pool.withdraw(digest)

    def take_copies(self) -> list[tuple[int, int]]:
        copies, self._copies = self._copies, []
        return copies

    def together(self, lengths: Sequence[int]) -> bool:
        return self.spec.reach is not None or sum(map(self._blocks, lengths)) <= self.pool.n_blocks

    def facts(self) -> CacheFacts:
        blocks = (self.pool.n_blocks, self.pool.n_held, self.pool.n_reusable)
        return CacheFacts("all" if self.spec.reach is None else "window", *(n * self._size for n in blocks))

    def _blocks(self, n_tokens: int) -> int:
        return -(-n_tokens // self._size)

    def _reserved(self, length: int, held: int) -> int:
        """The end of what a newcomer takes at once."""
        return held if self.spec.reach is None else length

    def _first_seen(self, position: int) -> int:
        """The first block that a token at `position`, or a later one, sees."""
        return max(0, self.spec.mask.first_seen(position)) // self._size

    def _needed(self, hashes: Sequence[bytes], length: int) -> Sequence[bytes]:
        """Of the first `length` tokens' blocks, those that later tokens see."""
        return self._names(hashes)[self._first_seen(length) : length // self._size]

    def _n_entries(self, length: int) -> int:
        """Those that are there of so many tokens."""
        return length // self.spec.every

    def _begun(self, hashes: Sequence[bytes], length: int, limit: int) -> int:
        """The greatest length up to `limit` at which the block behind the whole ones begins as one that is published,
        or has no entry yet."""
        ends = range(min(limit, length + self._size - self._entries), length, -self._entries)
        return next((end for end in ends if self._is_there(hashes, end)), length)

    def _is_there(self, hashes: Sequence[bytes], end: int) -> bool:
        """Of the first tokens the entries behind the whole blocks."""
        return self._n_entries(end) % self._entries == 0 or hashes[end // self._entries - 1] in self.pool.block_of

    def _names(self, hashes: Sequence[bytes]) -> Sequence[bytes]:
        """Of this group's blocks."""
        every = self.spec.every
        return hashes if every == 1 else hashes[every - 1 :: every]


def blocks_of(spec: Paged, options: EngineOptions) -> int:
    """How many blocks a group's pool has.

    n consecutive positions touch at most (n + 2 * block_size - 2) // block_size blocks. Under a window, a request whose
    step computes c tokens holds reach + c of them, and a step computes `max_step_tokens` in all: so whoever runs always
    finds room. A group that sees everything has room for `cache_tokens`, and no window needs more than that; whoever
    runs may have a block that it has not filled with entries of several positions.
    """
    if spec.reach is None:
        begun = 0 if spec.every == 1 else options.most_running
        return min(options.n_blocks, -(-options.n_blocks // spec.every) + begun)
    positions = options.most_running * (spec.reach + 2 * options.block_size - 2) + options.max_step_tokens
    return min(options.n_blocks, positions // options.block_size)
