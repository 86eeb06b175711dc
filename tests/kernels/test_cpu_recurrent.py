"""Recurrent layers in C++: against plain loops in float64, and the same bits wherever a step begins or ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from cpu_steps import Kernels, assert_near, rows_of
from torch import Tensor

from landrace.kernels.activation import Gate
from landrace.kernels.cpu import recurrent
from landrace.kernels.cpu.program import Program
from landrace.kernels.cpu.step import StepInput
from landrace.kernels.layer_cache import LayerState

N_STATES, N_GUESSES = 5, 6


def step_of(cuts: Sequence[tuple[int, int]], slots: Sequence[Sequence[int]]) -> StepInput:
    """Sequences from one position to another; `slots`: see `StateView`, which may leave out guesses."""
    starts = [0]
    for first, end in cuts:
        starts.append(starts[-1] + end - first)
    return StepInput(
        token_ids=torch.zeros(starts[-1], dtype=torch.long),
        positions=torch.cat([torch.arange(first, end) for first, end in cuts]),
        starts=starts,
        groups=(),
        logit_rows=torch.empty(0, dtype=torch.long),
        states=torch.tensor([[*own, 0, 0][:4] for own in slots]),
    )


def states_of(kernels: Kernels, shapes: Sequence[tuple[int, ...]]) -> LayerState:
    """With NaN where nobody has written."""
    state = recurrent.new_layer_state(kernels.extension, shapes, N_STATES, N_GUESSES)
    for part in state.parts:
        part.fill_(float("nan"))
    return state


class Convolved:
    """Two convolutions of one width."""

    def __init__(self, kernels: Kernels, isa: str, width: int, channels: tuple[int, int] = (70, 33)) -> None:
        self.width, self.channels = width, channels
        draw = torch.Generator().manual_seed(width)
        self.weights = [torch.randn(n, width, generator=draw) for n in channels]
        self.program = kernels.program(isa)
        self.xs = [self.program.buffer(n) for n in channels]
        vectors = [kernels.vector(weight.flatten()) for weight in self.weights]
        recurrent.short_conv(self.program, self.xs, vectors, width)
        self.state = states_of(kernels, [(width - 1 + N_GUESSES, n) for n in channels])
        self.program.bind_states([self.state])

    def run(self, inputs: Sequence[Tensor], step: StepInput, threads: int) -> list[Tensor]:
        for x, rows in zip(self.xs, inputs, strict=True):
            self.program.write(x, rows.contiguous())
        self.program.run(step, threads)
        return [self.program.read(x, len(rows)) for x, rows in zip(self.xs, inputs, strict=True)]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_convolutions(kernels: Kernels, isa: str, width: int) -> None:
    convolved = Convolved(kernels, isa, width)
    inputs = [rows_of(12, n, seed) for seed, n in enumerate(convolved.channels)]
    found = convolved.run(inputs, step_of([(0, 9), (0, 3)], [[3, 3], [1, 1]]), 2)
    for x, weight, out in zip(inputs, convolved.weights, found, strict=True):
        for start, end in ((0, 9), (9, 12)):
            before = torch.cat((torch.zeros(width - 1, x.shape[1]), x[start:end])).double()
            windows = before.unfold(0, width, 1)  # [rows, channels, width]
            sums = (windows * weight.double()).sum(-1)
            size = (windows.abs() * weight.abs().double()).sum(-1)
            assert_near(out[start:end], torch.nn.functional.silu(sums), size + 1, 2e-6)


def test_convolutions_have_the_same_bits_however_they_are_cut(kernels: Kernels) -> None:
    inputs = [rows_of(11, n, seed) for seed, n in enumerate((70, 33))]

    def compute(isa: str, threads: int) -> Tensor:
        whole = Convolved(kernels, isa, 4).run(inputs, step_of([(0, 11)], [[2, 2]]), threads)
        cut, parts = Convolved(kernels, isa, 4), []
        # To another state, in place, and beside a stranger.
        for first, end, read, write in ((0, 1, 4, 4), (1, 3, 4, 0), (3, 4, 0, 0), (4, 11, 0, 3)):
            stranger = [rows_of(5, n, 9) for n in (70, 33)]
            rows = [torch.cat((other, x[first:end])) for other, x in zip(stranger, inputs, strict=True)]
            out = cut.run(rows, step_of([(0, 5), (first, end)], [[1, 1], [read, write]]), threads)
            parts.append([one[5:] for one in out])
        joined = [torch.cat(part) for part in zip(*parts, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(joined, whole, strict=True))
        return torch.cat(joined, -1)

    kernels.same_everywhere(compute)


class Ruled:
    """The delta rule, and the numbers that it begins with."""

    def __init__(self, kernels: Kernels, isa: str, **shape: Any) -> None:
        self.shape = {"n_heads": 2, "n_value_heads": 4, "key_dim": 20, "value_dim": 70, **shape}
        decays = self.shape["key_dim"] if self.shape.pop("by_channel", False) else 1
        h, v = self.shape["n_heads"], self.shape["n_value_heads"]
        widths = {"q": h * self.shape["key_dim"], "k": h * self.shape["key_dim"], "v": v * self.shape["value_dim"]}
        self.widths = {**widths, "a": v * decays, "b": v}
        self.a_log, self.dt_bias = torch.linspace(-3, 2, v), torch.linspace(-1, 1, v * decays)
        self.program: Program = kernels.program(isa)
        self.buffers = {name: self.program.buffer(width) for name, width in self.widths.items()}
        self.out = self.program.buffer(self.widths["v"])
        recurrent.delta(
            self.program,
            **self.shape,
            **self.buffers,
            a_log=kernels.vector(self.a_log),
            dt_bias=kernels.vector(self.dt_bias),
            out=self.out,
        )
        changes = sum(width for name, width in self.widths.items() if name != "q")
        shapes = [(v, self.shape["key_dim"], self.shape["value_dim"]), (N_GUESSES, changes)]
        self.state = states_of(kernels, shapes)
        self.program.bind_states([self.state])

    def inputs(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        return {name: rows_of(n, width, seed + place) for place, (name, width) in enumerate(self.widths.items())}

    def run(self, inputs: dict[str, Tensor], step: StepInput, threads: int) -> Tensor:
        for name, rows in inputs.items():
            self.program.write(self.buffers[name], rows.contiguous())
        self.program.run(step, threads)
        return self.program.read(self.out, len(inputs["q"]))

    def expected(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One sequence from its beginning in float64: out, and its heads' states."""
        h, v, key_dim = (self.shape[name] for name in ("n_heads", "n_value_heads", "key_dim"))
        n = len(inputs["q"])
        q, k = (inputs[name].double().view(n, h, key_dim) for name in "qk")
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
        values = inputs["v"].double().view(n, v, -1)
        rates, x = self.a_log.double().exp()[:, None], (inputs["a"].double() + self.dt_bias).view(n, v, -1)
        floor = self.shape.get("floor")
        decay = -rates * torch.nn.functional.softplus(x) if floor is None else floor * (rates * x).sigmoid()
        beta = inputs["b"].double().sigmoid()
        state = torch.zeros(v, key_dim, values.shape[-1], dtype=torch.float64)
        out = torch.empty_like(values)
        for row in range(n):
            for head in range(v):
                own = head % h if self.shape.get("rounds") else head // (v // h)
                state[head] *= decay[row, head].exp()[:, None]
                u = beta[row, head] * (values[row, head] - k[row, own] @ state[head])
                state[head] += torch.outer(k[row, own], u)
                out[row, head] = q[row, own] @ state[head] * key_dim**-0.5
        return out.flatten(1), state


SHAPES: list[dict[str, Any]] = [
    {},
    {"by_channel": True, "floor": -5.0},
    {"n_value_heads": 6, "rounds": True},
    {"n_heads": 1, "n_value_heads": 1, "key_dim": 1, "value_dim": 1},
    {"n_value_heads": 2, "key_dim": 16, "value_dim": 128},
    {"key_dim": 3, "value_dim": 33},
    {"n_heads": 3, "n_value_heads": 3, "by_channel": True},
    {"n_heads": 2, "n_value_heads": 2, "key_dim": 128, "value_dim": 128, "by_channel": True},
    {"n_value_heads": 6, "key_dim": 7, "rounds": True, "by_channel": True},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_delta_rule(kernels: Kernels, isa: str, shape: dict[str, Any]) -> None:
    ruled = Ruled(kernels, isa, **shape)
    one, other = ruled.inputs(40), ruled.inputs(3, 7)
    both = {name: torch.cat((one[name], other[name])) for name in one}
    out = ruled.run(both, step_of([(0, 40), (0, 3)], [[3, 3], [0, 0]]), 2)
    for inputs, rows, slot in ((one, out[:40], 3), (other, out[40:], 0)):
        expected, state = ruled.expected(inputs)
        size = inputs["v"].abs().max().item()
        assert_near(rows, expected, size, 1e-5)
        assert_near(ruled.state.parts[0][slot, ..., : state.shape[-1]], state, size, 1e-5)


@pytest.mark.parametrize("by_channel", [False, True])
def test_the_delta_rule_has_the_same_bits_however_it_is_cut(kernels: Kernels, by_channel: bool) -> None:
    def compute(isa: str, threads: int) -> Tensor:
        ruled = Ruled(kernels, isa, by_channel=by_channel)
        inputs = ruled.inputs(30)
        whole = ruled.run(inputs, step_of([(0, 30)], [[2, 2]]), threads)
        cut, parts = Ruled(kernels, isa, by_channel=by_channel), []
        for first, end, read, write in ((0, 7, 4, 4), (7, 8, 4, 0), (8, 9, 0, 0), (9, 30, 0, 3)):
            rows = {name: torch.cat((cut.inputs(5, 11)[name], x[first:end])) for name, x in inputs.items()}
            parts.append(cut.run(rows, step_of([(0, 5), (first, end)], [[1, 1], [read, write]]), threads)[5:])
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(cut.state.parts[0][3], ruled.state.parts[0][2])
        return whole

    kernels.same_everywhere(compute)


GUESSED = (  # from, to, the step's own rows among them, state read, state left, right guesses before
    (0, 4, 1, 4, 4, 0),  # two of three guesses are right
    (3, 8, 2, 4, 0, 2),  # none of three, in another state
    (5, 6, 1, 0, 0, 0),
    (6, 7, 1, 0, 0, 0),
    (7, 9, 0, 0, 0, 0),  # guesses alone, which are right, and behind them one that is wrong
    (9, 10, 0, 0, 0, 2),
    (9, 16, 1, 0, 3, 2),  # as many right ones as there is room for
    (16, 19, 3, 3, 3, 6),
)
"""What the next step begins with again was wrong."""


def check_guesses(compute: Callable[[list[Tensor], list[int], tuple[int, int]], Tensor], inputs: list[Tensor]) -> None:
    """Rows are those of a whole sequence, whatever was guessed wrong before."""
    whole = compute(inputs, [2, 2, 0, 0], (0, 19))
    for (first, end, sure, *slots), (right, *_) in zip(GUESSED, (*GUESSED[1:], (19,)), strict=True):
        rows = [torch.cat((x[first:right], x[right:end] + 1)) for x in inputs]
        out = compute(rows, [*slots, end - first - sure], (first, end))
        assert torch.equal(out[: right - first], whole[first:right]), (first, end)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_convolutions_find_guesses_that_were_right(kernels: Kernels, width: int) -> None:
    def compute(isa: str, threads: int) -> Tensor:
        convolved = Convolved(kernels, isa, width)

        def run(rows: list[Tensor], slots: list[int], cut: tuple[int, int]) -> Tensor:
            beside = [torch.cat((rows_of(3, x.shape[1], 9), x)) for x in rows]
            return torch.cat(convolved.run(beside, step_of([(0, 3), cut], [[1, 1, 0, 2], slots]), threads), -1)[3:]

        check_guesses(run, [rows_of(19, n, seed) for seed, n in enumerate(convolved.channels)])
        return torch.cat([part[3, : width - 1].flatten() for part in convolved.state.parts])

    kernels.same_everywhere(compute)


def test_extreme_decays(kernels: Kernels, isa: str) -> None:
    """Softplus of what is far from zero, and states that fade to nothing."""
    ruled = Ruled(kernels, isa)
    inputs = ruled.inputs(12)
    inputs["a"][:, 0], inputs["a"][:, 1], inputs["a"][:, 2] = 300.0, -300.0, 19.0
    inputs["b"][:, 3] = -300.0
    out = ruled.run(inputs, step_of([(0, 12)], [[0, 0]]), 1)
    assert_near(out, ruled.expected(inputs)[0], inputs["v"].abs().max().item(), 1e-5)


class Lightning:
    """Lightning attention, and the numbers that it begins with."""

    def __init__(self, kernels: Kernels, isa: str, n_heads: int = 3, head_dim: int = 70) -> None:
        self.n_heads, self.head_dim = n_heads, head_dim
        self.rates = torch.linspace(0.001, 0.8, n_heads)
        self.program: Program = kernels.program(isa)
        self.buffers = {name: self.program.buffer(n_heads * head_dim) for name in ("q", "k", "v", "out")}
        recurrent.lightning(self.program, head_dim, self.rates, **self.buffers)
        self.state = states_of(kernels, [(n_heads, head_dim, head_dim), (N_GUESSES, 2 * n_heads * head_dim)])
        self.program.bind_states([self.state])

    def inputs(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        return {name: rows_of(n, self.n_heads * self.head_dim, seed + place) for place, name in enumerate("qkv")}

    def run(self, inputs: dict[str, Tensor], step: StepInput, threads: int) -> Tensor:
        for name, rows in inputs.items():
            self.program.write(self.buffers[name], rows.contiguous())
        self.program.run(step, threads)
        return self.program.read(self.buffers["out"], len(inputs["q"]))

    def expected(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One sequence from its beginning in float64: out, and its heads' states."""
        q, k, v = (torch.nn.functional.silu(inputs[name].double()).unflatten(1, (self.n_heads, -1)) for name in "qkv")
        state = torch.zeros(self.n_heads, self.head_dim, self.head_dim, dtype=torch.float64)
        out = torch.empty_like(v)
        for row in range(len(q)):
            for head in range(self.n_heads):
                state[head] = (-self.rates[head].double()).exp() * state[head] + torch.outer(k[row, head], v[row, head])
                out[row, head] = q[row, head] @ state[head]
        return out.flatten(1), state


@pytest.mark.parametrize("shape", [(1, 1), (2, 16), (3, 70), (1, 128)])
def test_lightning_attention(kernels: Kernels, isa: str, shape: tuple[int, int]) -> None:
    lightning = Lightning(kernels, isa, *shape)
    one, other = lightning.inputs(40), lightning.inputs(3, 7)
    both = {name: torch.cat((one[name], other[name])) for name in one}
    out = lightning.run(both, step_of([(0, 40), (0, 3)], [[3, 3], [0, 0]]), 2)
    for inputs, rows, slot in ((one, out[:40], 3), (other, out[40:], 0)):
        expected, state = lightning.expected(inputs)
        assert_near(rows, expected, expected.abs().max().item(), 2e-6)
        found = lightning.state.parts[0][slot, ..., : state.shape[-1]]
        assert_near(found, state, state.abs().max().item(), 2e-6)


def test_lightning_attention_has_the_same_bits_however_it_is_cut(kernels: Kernels) -> None:
    def compute(isa: str, threads: int) -> Tensor:
        lightning = Lightning(kernels, isa)
        inputs = lightning.inputs(30)
        whole = lightning.run(inputs, step_of([(0, 30)], [[2, 2]]), threads)
        cut, parts = Lightning(kernels, isa), []
        for first, end, read, write in ((0, 7, 4, 4), (7, 8, 4, 0), (8, 9, 0, 0), (9, 30, 0, 3)):
            rows = {name: torch.cat((cut.inputs(5, 11)[name], x[first:end])) for name, x in inputs.items()}
            parts.append(cut.run(rows, step_of([(0, 5), (first, end)], [[1, 1], [read, write]]), threads)[5:])
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(cut.state.parts[0][3], lightning.state.parts[0][2])
        return whole

    kernels.same_everywhere(compute)


HEAD_STATES: dict[str, Callable[[Kernels, str], Ruled | Lightning]] = {
    "a decay for each head": Ruled,
    "a decay for each channel": partial(Ruled, by_channel=True),
    "lightning attention": Lightning,
}


@pytest.mark.parametrize("kind", HEAD_STATES)
def test_guesses_leave_no_trace_in_a_state(kernels: Kernels, kind: str) -> None:
    """Those that were right are not computed again, to the bit."""

    def compute(isa: str, threads: int) -> Tensor:
        states = HEAD_STATES[kind](kernels, isa)
        other, inputs = states.inputs(3, 11), states.inputs(19)

        def run(rows: list[Tensor], slots: list[int], cut: tuple[int, int]) -> Tensor:
            own = dict(zip(inputs, rows, strict=True))
            beside = {name: torch.cat((other[name], x)) for name, x in own.items()}
            return states.run(beside, step_of([(0, 3), cut], [[1, 1, 0, 1], slots]), threads)[3:]

        check_guesses(run, list(inputs.values()))
        assert torch.equal(states.state.parts[0][3], states.state.parts[0][2])
        return states.state.parts[0][3]

    kernels.same_everywhere(compute)


GATES: dict[Gate, Callable[[Tensor], Tensor]] = {"silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid}


@pytest.mark.parametrize("by", GATES)
@pytest.mark.parametrize("heads", [1, 3])
def test_gated_norms(kernels: Kernels, isa: str, heads: int, by: Gate) -> None:
    x, gate = rows_of(9, heads * 20), rows_of(9, heads * 20, 2)
    weight = torch.linspace(0.5, 2, 20)
    program = kernels.program(isa)
    at, gate_at = program.buffer(heads * 20), program.buffer(heads * 20)
    recurrent.gated_norm(program, at, gate_at, kernels.vector(weight), 1e-3, by)
    program.write(at, x)
    program.write(gate_at, gate)
    step = step_of([(0, 9)], [[0, 0]])
    program.run(step, 2)
    wide = x.double().view(9, heads, 20)
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight
    expected = expected.flatten(1) * GATES[by](gate.double())
    assert_near(program.read(at, 9), expected, expected.abs() + 1, 2e-6)


def step(**changes: Any) -> StepInput:
    return StepInput(**{**vars(step_of([(4, 6), (0, 1)], [[0, 1], [2, 2]])), **changes})


def with_states(first: Sequence[int], second: Sequence[int] = (2, 2, 0, 0)) -> Callable[[], StepInput]:
    return lambda: step(states=torch.tensor([first, second]))


STEPS: dict[str, Callable[[], StepInput]] = {
    "no states": lambda: step(states=None),
    "int32 states": lambda: step(states=torch.tensor([[0, 1, 0, 0], [2, 2, 0, 0]], dtype=torch.int32)),
    "too few states": lambda: step(states=torch.tensor([[0, 1, 0, 0]])),
    "states without guesses": lambda: step(states=torch.tensor([[0, 1], [2, 2]])),
    "a state past the last": with_states((0, 1, 0, 0), (2, N_STATES, 0, 0)),
    "a negative state": with_states((-1, 1, 0, 0)),
    "a state that two write": with_states((0, 2, 0, 0)),
    "a state that another writes": with_states((2, 1, 0, 0)),
    "more right guesses than there is room for": with_states((0, 1, N_GUESSES + 1, 0)),
    "guesses below none": with_states((0, 1, 0, -1)),
    "right guesses below none": with_states((0, 1, -1, 0)),
    "more guesses than rows": with_states((0, 1, 0, 3)),
    "guesses beyond the room behind others": with_states((0, 0, N_GUESSES - 1, 2)),
    "guesses alone that leave the state": with_states((0, 1, 0, 2)),
    "guesses before a beginning": with_states((0, 1, 0, 0), (2, 2, 1, 0)),
    "a beginning that is a guess": with_states((0, 1, 0, 0), (2, 2, 0, 1)),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_are_refused(kernels: Kernels, name: str) -> None:
    ruled = Ruled(kernels, "plain")
    ruled.run(ruled.inputs(3), step(), 1)
    with pytest.raises((ValueError, IndexError)):
        ruled.run(ruled.inputs(3), STEPS[name](), 1)


def test_a_state_that_begins_is_not_looked_at(kernels: Kernels) -> None:
    ruled = Ruled(kernels, "plain")
    out = ruled.run(ruled.inputs(3), step_of([(0, 2), (0, 1)], [[99, 1], [-1, 2]]), 1)
    assert out.isfinite().all()


def test_what_does_not_go_together_is_refused(kernels: Kernels) -> None:
    program = kernels.program("plain")
    x = program.buffer(8)
    with pytest.raises(ValueError, match="1 to 16 rows"):
        recurrent.short_conv(program, [x], [kernels.vector(torch.ones(8 * 17))], 17)
    with pytest.raises(ValueError, match="tap"):
        recurrent.short_conv(program, [x], [kernels.vector(torch.ones(8))], 2)
    with pytest.raises(ValueError, match="whole heads"):
        recurrent.gated_norm(program, x, x, kernels.vector(torch.ones(3)), 1e-6)
    with pytest.raises(ValueError):
        recurrent.lightning(program, 3, torch.ones(2), q=x, k=x, v=x, out=x)
    for shape in ({"n_value_heads": 3}, {"key_dim": 0}, {"value_dim": 7}):
        with pytest.raises(ValueError):
            vectors = {name: kernels.vector(torch.ones(2)) for name in ("a_log", "dt_bias")}
            sizes = {"n_heads": 2, "n_value_heads": 2, "key_dim": 4, "value_dim": 4, **shape}
            recurrent.delta(program, **sizes, q=x, k=x, v=x, a=x, b=x, out=x, **vectors)  # type: ignore[arg-type]


def test_states_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    program = kernels.program("plain")
    x = program.buffer(8)
    recurrent.short_conv(program, [x], [kernels.vector(torch.ones(16))], 2)
    with pytest.raises(IndexError, match="no states are bound"):
        program.run(step_of([(0, 1)], [[0, 0]]), 1)
    for parts in ((), (torch.zeros(2, 9),), (torch.zeros(2, 8).double(),), (torch.zeros(8, 2).t(),)):
        with pytest.raises(ValueError):
            program.bind_states([LayerState(parts)])
    with pytest.raises(ValueError, match="16 values"):
        program.bind_states([LayerState((torch.zeros(2, 8),), n_guesses=1)])
