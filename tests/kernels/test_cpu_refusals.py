"""What the C++ kernels refuse: bad input is told what is wrong with it, and does no harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cpu_steps import Kernels, plain_step, stored_matrix
from torch import Tensor

from landrace.kernels.cpu.cache import Heads, new_layer_cache
from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.cpu.recurrent import delta, short_conv
from landrace.kernels.cpu.step import Rotary, StepInput
from landrace.kernels.cpu.weights import WeightMemory, as_rows
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.layer_cache import GroupView, LayerCache
from landrace.kernels.mask import Chunked, Sliding

# Until the kernels refuse these, some of them end the interpreter.
HEADS = Heads(2, 1, 16)


class Attended:
    """A program with attention, ready to run, and a step that it takes."""

    def __init__(self, kernels: Kernels, *, bind: bool = True, n_slots: int = 64) -> None:
        self.kernels = kernels
        self.program = kernels.program("plain")
        self.q, self.k, self.v, self.out = (self.program.buffer(width) for width in (32, 16, 16, 32))
        self.program.rope(0, HEADS, self.q, self.k, self.v, rotary=0, rotary_half=8)
        self.program.attention(0, HEADS, self.q, self.out)
        self.cache = new_layer_cache(kernels.extension, HEADS, n_slots, torch.float32)
        if bind:
            self.program.bind_cache([self.cache])
        for buffer, width in ((self.q, 32), (self.k, 16), (self.v, 16)):
            self.program.write(buffer, torch.ones(8, width))

    def run(self, n: int = 4, threads: int = 2, **changes: Any) -> Tensor:
        rows = torch.arange(n)
        slots = changes.pop("slots", (rows,))
        view = GroupView(changes.pop("write_slots", rows), slots, changes.pop("firsts", (0,) * len(slots)))
        step = StepInput(
            token_ids=torch.zeros(n, dtype=torch.long),
            positions=rows,
            starts=(0, n),
            groups=(view,),
            logit_rows=torch.empty(0, dtype=torch.long),
            rotary=(Rotary(torch.ones(32, 8), torch.zeros(32, 8), rows),),
        )
        return self.program.run(replace(step, **changes), threads)

    def angles(self, rows: Tensor, **changes: Any) -> tuple[Rotary]:
        return (replace(Rotary(torch.ones(32, 8), torch.zeros(32, 8), rows), **changes),)


def test_the_step_that_the_refusals_start_from(kernels: Kernels) -> None:
    attended = Attended(kernels)
    assert attended.run().shape == (0, 0)
    assert torch.equal(attended.program.read(attended.out, 4), torch.ones(4, 32))


def ids(*values: int) -> Tensor:
    return torch.tensor(values)


STEPS: dict[str, Callable[[Attended], Any]] = {
    "short token ids": lambda a: a.run(token_ids=torch.zeros(3, dtype=torch.long)),
    "int32 token ids": lambda a: a.run(token_ids=torch.zeros(4, dtype=torch.int32)),
    "token ids in rows": lambda a: a.run(token_ids=torch.zeros(2, 2, dtype=torch.long)),
    "strided token ids": lambda a: a.run(token_ids=torch.zeros(8, dtype=torch.long)[::2]),
    "token ids elsewhere": lambda a: a.run(token_ids=torch.zeros(4, dtype=torch.long, device="meta")),
    "int32 positions": lambda a: a.run(positions=ids(0, 1, 2, 3).int()),
    "a gap in the positions": lambda a: a.run(positions=ids(0, 1, 3, 4), slots=(torch.arange(5),)),
    "positions backwards": lambda a: a.run(positions=ids(3, 2, 1, 0)),
    "a negative position": lambda a: a.run(1, positions=ids(-1)),
    "the last position of all": lambda a: a.run(1, positions=ids(2**63 - 1)),
    "a position without slots": lambda a: a.run(1, positions=ids(2**40), slots=(ids(0),), write_slots=ids(0)),
    "fewer slots than positions": lambda a: a.run(positions=ids(20, 21, 22, 23), slots=(torch.arange(4),)),
    "no slots": lambda a: a.run(slots=(torch.empty(0, dtype=torch.long),)),
    "int32 slots": lambda a: a.run(slots=(torch.arange(4).int(),)),
    "strided slots": lambda a: a.run(slots=(torch.arange(8)[::2],)),
    "slots elsewhere": lambda a: a.run(slots=(torch.arange(4, device="meta"),)),
    "slots that are no block": lambda a: a.run(slots=(torch.arange(1, 5),), write_slots=torch.arange(1, 5)),
    "a slot of another block": lambda a: a.run(slots=(ids(0, 17, 2, 3),), write_slots=ids(0, 17, 2, 3)),
    "a slot past the cache": lambda a: a.run(slots=(torch.arange(64, 68),), write_slots=torch.arange(64, 68)),
    "a negative slot": lambda a: a.run(slots=(torch.arange(-16, -12),), write_slots=torch.arange(-16, -12)),
    "writing past the cache": lambda a: a.run(write_slots=ids(0, 1, 2, 64)),
    "writing before the cache": lambda a: a.run(write_slots=ids(-1, 1, 2, 3)),
    "writing elsewhere than is read": lambda a: a.run(write_slots=ids(16, 17, 18, 19)),
    "fewer slots than sequences": lambda a: a.run(slots=()),
    "fewer first positions than sequences": lambda a: a.run(firsts=()),
    "a first position that is no tile's": lambda a: a.run(
        1, positions=ids(20), slots=(ids(*range(4, 21)),), firsts=(4,)
    ),
    "a negative first position": lambda a: a.run(slots=(torch.arange(20),), firsts=(-16,)),
    "a row before the first position": lambda a: a.run(slots=(torch.arange(32),), firsts=(16,)),
    "a past that is seen and not there": lambda a: a.run(
        1, positions=ids(20), slots=(torch.arange(5),), firsts=(16,), write_slots=ids(4)
    ),
    "no groups": lambda a: a.run(groups=()),
    "too many groups": lambda a: a.run(groups=(GroupView(torch.arange(4), (torch.arange(4),), (0,)),) * 2),
    "too few starts": lambda a: a.run(starts=(0,)),
    "no starts": lambda a: a.run(starts=()),
    "starts past the rows": lambda a: a.run(starts=(0, 9, 4), slots=(torch.arange(9),) * 2),
    "starts backwards": lambda a: a.run(starts=(0, 3, 2, 4), slots=(torch.arange(8),) * 3),
    "negative starts": lambda a: a.run(starts=(0, -3, 4), slots=(torch.arange(8),) * 2),
    "starts from one": lambda a: a.run(starts=(1, 4)),
    "starts that end early": lambda a: a.run(starts=(0, 3)),
    "no angles": lambda a: a.run(rotary=()),
    "narrow angles": lambda a: a.run(rotary=a.angles(torch.arange(4), cos=torch.ones(32, 7))),
    "fewer sines than cosines": lambda a: a.run(rotary=a.angles(torch.arange(4), sin=torch.ones(3, 8))),
    "float64 angles": lambda a: a.run(rotary=a.angles(torch.arange(4), sin=torch.ones(32, 8).double())),
    "an angle past the table": lambda a: a.run(rotary=a.angles(ids(0, 1, 2, 32))),
    "an angle far past the table": lambda a: a.run(rotary=a.angles(ids(0, 1, 2, 1 << 40))),
    "a negative angle": lambda a: a.run(rotary=a.angles(ids(0, 1, -1, 3))),
    "angles of fewer rows": lambda a: a.run(rotary=a.angles(ids(0, 1, 2))),
    "a logit row past the rows": lambda a: a.run(logit_rows=ids(4)),
    "a negative logit row": lambda a: a.run(logit_rows=ids(-1)),
    "an adapter row past the rows": lambda a: a.run(adapter_rows=((4,),)),
    "more adapter rows than rows": lambda a: a.run(adapter_rows=((0,) * 5000,)),
    "less than no threads": lambda a: a.run(threads=-1),
    "more threads than the pool": lambda a: a.run(threads=4),
    "no cache": lambda a: Attended(a.kernels, bind=False).run(),
    "a cache without slots": lambda a: Attended(a.kernels, n_slots=0).run(),
}


@pytest.mark.parametrize("name", STEPS)
def test_bad_steps_are_refused(kernels: Kernels, name: str) -> None:
    attended = Attended(kernels)
    with pytest.raises((ValueError, IndexError)):
        STEPS[name](attended)
    attended.run()  # and nothing is broken


CACHES: dict[str, Callable[[LayerCache, Callable[[Heads], LayerCache]], list[LayerCache]]] = {
    "one too many": lambda c, new: [c, c],
    "none": lambda c, new: [],
    "other heads": lambda c, new: [new(Heads(4, 2, 16))],
    "other channels": lambda c, new: [new(Heads(2, 1, 17))],
    "fewer values than keys": lambda c, new: [replace(c, values=c.values[:3])],
    "values elsewhere": lambda c, new: [replace(c, values=new(HEADS).values)],
    "values not behind the keys": lambda c, new: [replace(c, values=torch.zeros(4, 1, 16, 16))],
    "two types": lambda c, new: [replace(c, values=c.values.bfloat16())],
    "float64": lambda c, new: [LayerCache(c.keys.double(), c.values.double())],
    "on another device": lambda c, new: [LayerCache(c.keys.to("meta"), c.values.to("meta"))],
    "int8 without scales": lambda c, new: [LayerCache(c.keys.to(torch.int8), c.values.to(torch.int8))],
    "scales without int8": lambda c, new: [
        replace(c, key_scales=torch.zeros(4, 1, 16), value_scales=torch.zeros(4, 1, 16))
    ],
}


@pytest.mark.parametrize("name", CACHES)
def test_caches_of_the_wrong_shape_are_refused(kernels: Kernels, name: str) -> None:
    attended = Attended(kernels, bind=False)

    def new(heads: Heads) -> LayerCache:
        return new_layer_cache(kernels.extension, heads, 64, torch.float32)

    with pytest.raises(ValueError, match="cache"):
        attended.program.bind_cache(CACHES[name](attended.cache, new))


def test_groups_are_numbered_in_order(kernels: Kernels) -> None:
    program = kernels.program("plain")
    q, k, v = program.buffer(32), program.buffer(16), program.buffer(16)
    for wrong in (1, -1):
        with pytest.raises(ValueError, match="the next is 0"):
            program.rope(0, HEADS, q, k, v, rotary=None, group=wrong)
    for layer, group in enumerate((0, 1, 0)):
        program.rope(layer, HEADS, q, k, v, rotary=None, group=group)
    program.bind_cache([new_layer_cache(kernels.extension, HEADS, n, torch.float32) for n in (16, 64, 16)])


def test_layers_of_different_sizes_are_refused(kernels: Kernels) -> None:
    program = kernels.program("plain")
    q, k, v = program.buffer(32), program.buffer(16), program.buffer(16)
    for layer in range(2):
        program.rope(layer, HEADS, q, k, v, rotary=None)
    with pytest.raises(ValueError, match=r"1, 4"):
        program.bind_cache([new_layer_cache(kernels.extension, HEADS, n, torch.float32) for n in (16, 64)])


@pytest.fixture
def parts(kernels: Kernels) -> SimpleNamespace:
    """A program with buffers of 32 and 16, one whose first buffers are like them and that has keys, and what can be
    recorded on them."""
    program, attended = kernels.program("plain"), kernels.program("plain")
    attended.rope(0, HEADS, attended.buffer(32), attended.buffer(16), attended.buffer(16), rotary=None)
    return SimpleNamespace(
        kernels=kernels,
        program=program,
        attended=attended,
        wide=program.buffer(32),
        narrow=program.buffer(16),
        matrix=kernels.matrix(stored_matrix("Q4_0", 16, 32), "Q4_0", 32),
        square=kernels.matrix(stored_matrix("F32", 32, 32), "F32", 32),
        vector=kernels.vector(torch.ones(16)),
    )


RECORDS: dict[str, Callable[[Any], Any]] = {
    "a width of zero": lambda p: p.program.buffer(0),
    "other inputs": lambda p: p.program.product("", p.narrow, [Part(p.matrix, p.narrow)]),
    "other outputs": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.wide)]),
    "no parts": lambda p: p.program.product("", p.wide, []),
    "reading the logits": lambda p: p.program.product("", p.program.logits, [Part(p.matrix, p.narrow)]),
    "no such input": lambda p: p.program.product("", 9, [Part(p.matrix, p.narrow)]),
    "no such output": lambda p: p.program.product("", p.wide, [Part(p.matrix, 9)]),
    "a negative output": lambda p: p.program.product("", p.wide, [Part(p.matrix, -2)]),
    "no such rows": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.narrow)], rows=-3),
    "a short bias": lambda p: p.program.product("", p.wide, [Part(p.square, p.wide, p.vector)]),
    "a short norm": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.narrow)], norm=p.vector),
    "half a gate": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.narrow, epilogue=Epilogue.GATE)]),
    "a gate for nothing": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.narrow, gated=p.matrix)]),
    "gates of two shapes": lambda p: p.program.product(
        "", p.wide, [Part(p.square, p.wide, epilogue=Epilogue.GATE, gated=p.matrix)]
    ),
    "a short order": lambda p: p.program.product("", p.wide, [Part(replace(p.matrix, order=p.vector), p.narrow)]),
    "an order beyond the row": lambda p: p.program.product(
        "", p.wide, [Part(replace(p.matrix, order=p.kernels.vector(torch.arange(1.0, 33.0))), p.narrow)]
    ),
    "an order of no numbers": lambda p: p.program.product(
        "", p.wide, [Part(replace(p.matrix, order=p.kernels.vector(torch.full((32,), torch.nan))), p.narrow)]
    ),
    "gates in another order": lambda p: p.program.product(
        "", p.wide, [Part(p.matrix, p.narrow, gated=replace(p.matrix, order=p.vector), epilogue=Epilogue.GATE)]
    ),
    "gathering all rows": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.narrow)], gather=True),
    "scattering logit rows": lambda p: p.program.product(
        "", p.wide, [Part(p.matrix, p.narrow)], rows=p.program.logit_rows, scatter=True
    ),
    "logits of all rows": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.program.logits)]),
    "logits of an adapter": lambda p: p.program.product(
        "", p.wide, [Part(p.matrix, p.program.logits)], rows=0, gather=True
    ),
    "two kinds of logits": lambda p: p.program.product(
        "",
        p.wide,
        [Part(p.matrix, p.program.logits), Part(p.square, p.program.logits)],
        rows=p.program.logit_rows,
        gather=True,
    ),
    "adding to logits": lambda p: p.program.product(
        "", p.wide, [Part(p.matrix, p.program.logits, epilogue=Epilogue.ADD)], rows=p.program.logit_rows, gather=True
    ),
    "an embedding of another width": lambda p: p.program.embedding(p.square, 1.0, p.narrow),
    "a norm of another width": lambda p: p.program.norm(p.wide, p.vector, 1e-5, p.wide),
    "a norm to another width": lambda p: p.program.norm(p.narrow, p.vector, 1e-5, p.wide),
    "gates of two widths": lambda p: p.program.gate(p.wide, p.narrow, p.wide),
    "gates of no buffer": lambda p: p.program.gate(-1, p.narrow, p.narrow),
    "heads that do not share": lambda p: Heads(3, 2, 16),
    "no heads": lambda p: Heads(0, 1, 16),
    "heads too wide": lambda p: p.program.rope(
        0, Heads(1, 1, 513), *(p.program.buffer(513) for _ in range(3)), rotary=None
    ),
    "turning too much": lambda p: p.program.rope(0, HEADS, p.wide, p.narrow, p.narrow, rotary=0, rotary_half=9),
    "turning by nothing": lambda p: p.program.rope(0, HEADS, p.wide, p.narrow, p.narrow, rotary=0),
    "turning without angles": lambda p: p.program.rope(
        0, HEADS, p.wide, p.narrow, p.narrow, rotary=None, rotary_half=8
    ),
    "no such table": lambda p: p.program.rope(0, HEADS, p.wide, p.narrow, p.narrow, rotary=5, rotary_half=8),
    "a negative table": lambda p: p.program.rope(0, HEADS, p.wide, p.narrow, p.narrow, rotary=-1, rotary_half=8),
    "narrow queries": lambda p: p.program.rope(0, HEADS, p.narrow, p.narrow, p.narrow, rotary=None),
    "a head norm without weights": lambda p: p.program.rope(
        0, HEADS, p.wide, p.narrow, p.narrow, rotary=None, norm=QkNorm("before_rope")
    ),
    "a later layer first": lambda p: p.program.rope(7, HEADS, p.wide, p.narrow, p.narrow, rotary=None),
    "a negative layer": lambda p: p.program.rope(-1, HEADS, p.wide, p.narrow, p.narrow, rotary=None),
    "attention without keys": lambda p: p.program.attention(0, HEADS, p.wide, p.wide),
    "attention to narrow rows": lambda p: p.program.attention(0, HEADS, p.wide, p.narrow),
    "a norm without weights that has one": lambda p: p.program.rope(
        0,
        HEADS,
        p.wide,
        p.narrow,
        p.narrow,
        rotary=None,
        norm=QkNorm("before_rope", kind="l2"),
        q_norm=p.vector,
        k_norm=p.vector,
    ),
    "a joint norm of one head's width": lambda p: p.program.rope(
        0,
        HEADS,
        p.wide,
        p.narrow,
        p.narrow,
        rotary=None,
        norm=QkNorm("before_rope", over="all_heads"),
        q_norm=p.vector,
        k_norm=p.vector,
    ),
    "a temperature of no positions": lambda p: p.program.rope(
        0, HEADS, p.wide, p.narrow, p.narrow, rotary=None, temperature=Temperature(0.1, 0)
    ),
    "a wide gate of rows": lambda p: p.program.product("", p.wide, [Part(p.matrix, p.narrow, row_gate=p.wide)]),
    "gates of half a head": lambda p: p.program.gate_heads(p.wide, p.program.buffer(3), p.wide),
    "an empty chunk": lambda p: p.attended.attention(0, HEADS, p.wide, p.wide, mask=Chunked(0)),
    "sinks of other heads": lambda p: p.attended.attention(0, HEADS, p.wide, p.wide, sinks=p.vector),
    "slopes of other heads": lambda p: p.attended.attention(0, HEADS, p.wide, p.wide, slopes=torch.ones(3)),
    "an empty window": lambda p: p.attended.attention(0, HEADS, p.wide, p.wide, mask=Sliding(0)),
    "writing wide rows": lambda p: p.program.write(p.narrow, torch.zeros(4, 32)),
    "writing float64": lambda p: p.program.write(p.wide, torch.zeros(4, 32).double()),
    "writing strided rows": lambda p: p.program.write(p.wide, torch.zeros(32, 4).t()),
    "writing from elsewhere": lambda p: p.program.write(p.wide, torch.zeros(4, 32, device="meta")),
    "writing one number": lambda p: p.program.write(p.wide, torch.tensor(1.0)),
    "writing to the logits": lambda p: p.program.write(p.program.logits, torch.zeros(4, 16)),
    "writing to no buffer": lambda p: p.program.write(2, torch.zeros(4, 16)),
    "reading the logits back": lambda p: p.program.read(p.program.logits, 1),
    "reading no buffer": lambda p: p.program.read(2, 1),
    "float rows as blocks": lambda p: p.kernels.matrix(torch.zeros(4, 32), "F32", 8),
    "blocks of another width": lambda p: p.kernels.matrix(torch.zeros(4, 33, dtype=torch.uint8), "F32", 8),
    "blocks in one row": lambda p: p.kernels.matrix(torch.zeros(18, dtype=torch.uint8), "Q4_0", 32),
    "blocks elsewhere": lambda p: p.kernels.matrix(torch.zeros(4, 32, dtype=torch.uint8, device="meta"), "F32", 8),
    "half a block": lambda p: p.kernels.matrix(torch.zeros(4, 18, dtype=torch.uint8), "Q4_0", 31),
    "half a super-block": lambda p: p.kernels.matrix(torch.zeros(4, 72, dtype=torch.uint8), "Q4_K", 128),
    "no rows": lambda p: p.kernels.matrix(torch.zeros(0, 18, dtype=torch.uint8), "Q4_0", 32),
    "an unknown block type": lambda p: p.kernels.matrix(torch.zeros(4, 84, dtype=torch.uint8), "Q2_K", 256),
    "a vector in rows": lambda p: p.kernels.vector(torch.zeros(2, 2)),
    "integers as rows": lambda p: as_rows(torch.zeros(2, 2, dtype=torch.int8)),
    "an unknown instruction set": lambda p: p.kernels.program("mmx"),
    "slots that are no tiles": lambda p: new_layer_cache(p.kernels.extension, HEADS, 17, torch.float32),
    "a cache of float64": lambda p: new_layer_cache(p.kernels.extension, HEADS, 16, torch.float64),
}


@pytest.mark.parametrize("name", RECORDS)
def test_bad_records_are_refused(parts: SimpleNamespace, name: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        RECORDS[name](parts)


def test_what_is_refused_leaves_nothing_behind(parts: SimpleNamespace) -> None:
    """No part of a state, no logits: the program records and runs as if it had never been asked."""
    program, x = parts.program, parts.program.buffer(8)
    taps, few, heads = (parts.kernels.vector(torch.ones(n)) for n in (16, 3, 2))
    with pytest.raises(ValueError, match="a tap for each"):
        short_conv(program, [x, x], [taps, few], 2)
    sizes = {"n_heads": 2, "n_value_heads": 2, "key_dim": 4, "value_dim": 4}
    b = program.buffer(2)
    with pytest.raises(ValueError, match="a decay of its own"):
        delta(program, **sizes, q=x, k=x, v=x, a=b, b=b, a_log=heads, dt_bias=few, out=x)
    logits = Part(parts.square, program.logits)
    with pytest.raises(ValueError, match="stored once"):
        program.product("", parts.wide, [logits, logits], rows=program.logit_rows)
    program.bind_states([])
    program.product("", parts.wide, [logits], rows=program.logit_rows)
    program.write(parts.wide, torch.ones(1, 32))
    assert program.run(plain_step(1, logit_rows=ids(0)), 1).shape == (1, 32)


def test_tokens_past_the_table_are_refused(parts: SimpleNamespace) -> None:
    parts.program.embedding(parts.square, 1.0, parts.wide)
    for token in (32, -1, 2**40, -(2**63)):
        with pytest.raises(IndexError, match=f"token {token} is not one of 32"):
            parts.program.run(plain_step(1, token_ids=ids(token)), 1)


def test_memory_that_is_full_is_refused(kernels: Kernels) -> None:
    memory = WeightMemory(kernels.extension, kernels.pool, 64)
    with pytest.raises(ValueError, match=r"more than the \d+ bytes that were asked for"):
        for _ in range(40):
            memory.vector(torch.zeros(100_000))
