"""From what layers keep to the group that keeps account of it: the one place that matches on the kinds."""

from __future__ import annotations

from typing import Any, assert_never

from landrace.engine.cache.group import Group
from landrace.engine.cache.paged import PagedGroup, blocks_of
from landrace.engine.cache.state import StateGroup, snapshots_every, states_of
from landrace.engine.options import EngineOptions
from landrace.models.cache_spec import Kept, Paged, State


def new_group(kept: Kept, options: EngineOptions) -> Group[Any]:
    """A group in which nobody holds anything."""
    match kept:
        case Paged():
            return PagedGroup(kept, blocks_of(kept, options), options.block_size)
        case State():
            return StateGroup(states_of(options), options.block_size, snapshots_every(options))
        case _:
            assert_never(kept)


def slots_of(kept: Kept, options: EngineOptions) -> int:
    """What memory a group's layers need: for so many tokens, or for so many states."""
    match kept:
        case Paged():
            return blocks_of(kept, options) * options.block_size
        case State():
            return states_of(options)
        case _:
            assert_never(kept)
