"""Operations by schema: every field of every operation is checked, and Python is called where a program says so."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cpu_steps import Kernels, plain_step, stored_matrix

from landrace.kernels.cpu.cache import CACHE_TYPES
from landrace.kernels.cpu.part import Epilogue, Part
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.cpu.weights import KINDS


def test_names_are_those_of_the_kernels(kernels: Kernels) -> None:
    """What Python names, the kernels know by the same name, and nothing else."""
    parts = {name: choices for name, _, _, choices, _ in fields_of(kernels, "product")["parts"][-1]}
    assert sorted(KINDS) == sorted(kernels.extension.KINDS)
    assert sorted(Epilogue) == sorted(parts["epilogue"])
    assert sorted(CACHE_TYPES.values()) == sorted(kernels.extension.CACHE_TYPES)


def fields_of(kernels: Kernels, operation: str) -> dict[str, Any]:
    return {field[0]: field for field in kernels.extension.OPERATIONS[operation]}


GOOD: dict[str, Callable[[Kernels], object]] = {
    "buffer": lambda k: 0,
    "integer": lambda k: 1,
    "number": lambda k: 0.5,
    "flag": lambda k: True,
    "matrix": lambda k: k.matrix(stored_matrix("F32", 16, 16), "F32", 16),
    "vector": lambda k: k.vector(torch.ones(16)),
}
BAD: dict[str, tuple[object, ...]] = {
    "buffer": (0.0, True, "x"),
    "integer": (1.0, False, None),
    "number": ("1", True, torch.ones(1)),
    "flag": (1, 0.0),
    "choice": ("nothing of the kind", 0),
    "matrix": (torch.ones(2, 2), 0),
    "vector": (torch.ones(2).double(), torch.ones(2, 2), torch.ones(4)[::2], 0),
    "records": (0, [1], {"matrix": 1}),
}


def good_fields(kernels: Kernels, schema: list[Any]) -> dict[str, Any]:
    """A value of the right kind for every field."""
    fields: dict[str, Any] = {}
    for name, kind, _, choices, inner in schema:
        if kind == "choice":
            fields[name] = choices[-1]
        else:
            fields[name] = [good_fields(kernels, inner)] if kind == "records" else GOOD[kind](kernels)
    return fields


def test_fields_of_the_wrong_kind_are_refused_by_name(kernels: Kernels) -> None:
    for operation, schema in kernels.extension.OPERATIONS.items():
        good = good_fields(kernels, schema)
        program = kernels.program("plain")
        program.buffer(16)
        for name, kind, needed, _, _ in schema:
            for bad in BAD[kind]:
                if bad is not None or needed:
                    with pytest.raises(ValueError, match=f"{operation}.*{name}"):
                        program.add(operation, **{**good, name: bad})
            if needed:
                with pytest.raises(ValueError, match=f"{operation} needs the field {name}"):
                    program.add(operation, **{key: value for key, value in good.items() if key != name})
        with pytest.raises(ValueError, match=f"{operation} has no field colour"):
            program.add(operation, **good, colour=1)


def test_fields_of_records_are_checked_too(kernels: Kernels) -> None:
    program = kernels.program("plain")
    x = program.buffer(16)
    good = vars(Part(kernels.matrix(stored_matrix("F32", 16, 16), "F32", 16), x))
    for record, message in (
        ({**good, "factor": "much"}, "product.parts: the field factor must be of the kind number, not 'much'"),
        (
            {**good, "epilogue": "lost"},
            "product.parts: the field epilogue must be one of store, add, gate",
        ),
        ({**good, "colour": 1}, "product.parts has no field colour"),
        ({key: value for key, value in good.items() if key != "out"}, "product.parts needs the field out"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            program.add("product", x=x, parts=[record], rows=-1)


def test_operations_say_what_does_not_go_together(kernels: Kernels) -> None:
    program = kernels.program("plain")
    x, y = program.buffer(16), program.buffer(8)
    with pytest.raises(ValueError, match=r"^norm \(last norm\): buffer 1 does not have rows of 16 values$"):
        program.add("norm", name="last norm", x=x, weight=torch.ones(16), eps=0.1, out=y, factor=1.0)
    with pytest.raises(ValueError, match="There is no operation convolution"):
        program.add("convolution", x=x)


def add_one(program: Program, buffer: int) -> Callable[[StepInput], None]:
    def function(step: StepInput) -> None:
        assert torch.get_num_threads() == 1
        program.view(buffer, step.token_ids.numel()).add_(1)

    return function


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_calls_between_operations(kernels: Kernels, isa: str, threads: int) -> None:
    """x -> 2x -> 2x + 1 -> 4x + 2 -> 4x + 3, at every number of rows, in the buffers' own memory."""
    program = kernels.program(isa)
    x, y = program.buffer(3), program.buffer(3)
    twice = kernels.matrix((2 * torch.eye(3)).view(torch.uint8), "F32", 3)
    for source, target in ((x, y), (y, x)):
        program.product("twice", source, [Part(twice, target)])
        program.call("add one", add_one(program, target))
    for n in (0, 1, 5, 40):
        rows = torch.randint(-99, 99, (n, 3)).float()
        program.write(x, rows)
        program.run(plain_step(n), threads)
        assert torch.equal(program.read(x, n), 4 * rows + 3)
    if threads:
        names = [name for name, _ in program.profile(plain_step(5), threads)]
        assert names == ["twice", "add one", "twice", "add one"]


@pytest.mark.parametrize("run", ["run", "profile"])
def test_what_a_call_raises_ends_the_step(kernels: Kernels, run: str) -> None:
    program = kernels.program("plain")
    x = program.buffer(2)
    wrong, later = [True], []

    def fail(step: StepInput) -> None:
        if wrong[0]:
            raise ArithmeticError("no result")

    program.call("fail", fail)
    program.call("later", later.append)
    program.norm(x, kernels.vector(torch.ones(2)), 0.1, x)
    for _ in range(3):
        with pytest.raises(ArithmeticError, match="no result"):
            getattr(program, run)(plain_step(2), 3)
    assert not later
    wrong[0] = False
    getattr(program, run)(plain_step(2), 3)
    assert len(later) == 1


def test_views_are_the_buffers_memory(kernels: Kernels) -> None:
    program = kernels.program("plain")
    x = program.buffer(4)
    program.write(x, torch.arange(12.0).view(3, 4))
    view = program.view(x, 3)
    view[1] = 7
    assert torch.equal(program.read(x, 3)[1], torch.full((4,), 7.0))
    assert program.view(x, 2).data_ptr() == view.data_ptr()
    assert program.view(x, 0).shape == (0, 4)


def test_programs_with_calls_are_let_go_of(kernels: Kernels) -> None:
    program = kernels.program("plain")
    program.call("add one", add_one(program, program.buffer(4)))
    program.run(plain_step(1), 1)
    gone = weakref.ref(program)
    del program
    gc.collect()
    assert gone() is None
