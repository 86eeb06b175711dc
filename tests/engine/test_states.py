"""What random workloads seldom meet in a group of states."""

from __future__ import annotations

from landrace.engine.cache.state import StateGroup

HASHES = (b"one", b"two")


def test_a_state_that_others_read_is_not_overwritten_once_it_is_withdrawn() -> None:
    group = StateGroup(4, 4, 4)
    first, second = group.new(), group.new()
    group.reserve(first, 8)
    group.committed(first, HASHES[:1], 0, 4, 4)
    group.attach(second, HASHES, 4)
    group.reserve(second, 8)
    group.withdraw(HASHES)
    assert group.grows(first, 8)
    group.extend(first, 8)
    assert first.read == second.read and len({first.read, first.write, second.write}) == 3


def test_a_snapshot_is_kept_while_there_is_room_beside_it() -> None:
    group = StateGroup(3, 4, 4)
    table = group.new()
    group.reserve(table, 8)
    for end, hits in ((4, 4), (8, 8)):
        group.extend(table, end)
        group.committed(table, HASHES[: end // 4], end - 4, end, end)
        assert group.usable(HASHES, 8) == hits
    assert group.usable(HASHES, 7) == 4, "the first snapshot is still there"
    group.extend(table, 12)
    assert table.write != table.read and group.usable(HASHES, 8) == 8


def test_the_last_room_is_ones_own_snapshot() -> None:
    group = StateGroup(2, 4, 4)
    table, other = group.new(), group.new()
    group.reserve(table, 8)
    group.committed(table, HASHES[:1], 0, 4, 4)
    group.reserve(other, 4)
    group.extend(table, 8)
    assert table.write == table.read and group.usable(HASHES, 8) == 0
    assert not group.fits(HASHES, 0, 4, 0) and group.together([4, 4]) and not group.together([4, 4, 4])
    group.release(table)
    group.release(other)
    assert len(group.pool.free) == 2


def test_without_snapshots_nothing_is_cut_or_found() -> None:
    group = StateGroup(2, 4, None)
    table = group.new()
    group.reserve(table, 8)
    assert group.cut(0, 7) == 7
    group.committed(table, (), 0, 4, 4)
    group.extend(table, 8)
    assert table.write == table.read and group.usable(HASHES, 8) == 0
