"""The one forward pass against a backend that computes nothing: what is asked of it, and of which weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tiny_models import STREAMS, chosen_before, latent_spec, tiny_spec, with_delta, with_ngrams

from landrace.kernels.activation import Activation
from landrace.kernels.head_form import QkNorm, Temperature
from landrace.kernels.mask import Chunked
from landrace.kernels.router import Router
from landrace.models.declared import count, declared, params_of
from landrace.models.decoder import Decoder
from landrace.models.ffn_spec import Dense, Moe
from landrace.models.layer import Layer
from landrace.models.params import Weights
from landrace.models.selection_spec import BlockSelection, MeanSelection, Selection
from landrace.models.spec import ModelSpec, Plain, Sandwich


class Rows:
    """Rows that are good for nothing: a block that looks into them, counts them or computes with them fails."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise AssertionError("A block branches on its rows.")


@dataclass
class Trace:
    """See `Ops`."""

    asked: list[str] = field(default_factory=list)
    weights: set[str] = field(default_factory=set)

    def __getattr__(self, operation: str) -> Any:
        def record(*arguments: Any, **options: Any) -> Any:
            self.asked.append(operation)
            for holder in _holders([arguments, options]):
                self.weights.add(holder.name)
            if operation in ("linears", "conv"):
                return [Rows() for _ in arguments[1]]
            return (Rows(), Rows()) if operation in ("keep", "keep_latents") else Rows()

        return record


def _holders(value: Any) -> Iterator[Weights]:
    if isinstance(value, Weights):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _holders(item)
    elif isinstance(value, dict):
        yield from _holders(list(value.values()))


def with_ffn(spec: ModelSpec, ffn: Dense | Moe) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, ffn=ffn) for layer in spec.layers))


SPECS = {
    "plain": tiny_spec(),
    "gated channels": tiny_spec(gate="channel"),
    "delta net": with_delta(tiny_spec()),
    "sandwich": tiny_spec(residual=Sandwich(0.5)),
    "scaled, tied": replace(tiny_spec(residual=Plain(0.5)), tie_embeddings=True, lm_head_bias=False),
    "biases, norms": replace(tiny_spec(qkv_bias=True, o_bias=True, qk_norm=QkNorm("after_rope")), lm_head_bias=True),
    "everything of attention": tiny_spec(
        qk_norm=QkNorm("before_rope", over="all_heads"),
        sinks=True,
        gate="head",
        mask=Chunked(8),
        q_rank=6,
        rope=None,
        temperature=Temperature(0.1, 8),
    ),
    "latents": latent_spec(),
    "latents, queries of low rank, biases": latent_spec(q_rank=6, bias=True),
    "latents, sinks, gated channels": latent_spec(sinks=True, gate="channel"),
    **{f"streams, {name}": tiny_spec(residual=streams) for name, streams in STREAMS.items()},
    "n-grams": with_ngrams(),
    "latents, chosen": latent_spec(q_rank=6, selection=Selection(3, 8, 5)),
    "chosen blocks": tiny_spec(gate="head", selection=BlockSelection(8, 4, 2)),
    "blocks chosen by means": tiny_spec(head_dim=16, selection=MeanSelection(32, 5, 1, 2, 200)),
    "latents, chosen before": chosen_before(latent_spec(q_rank=6, selection=Selection(3, 8, 5))),
    "l2, alibi": tiny_spec(qk_norm=QkNorm("after_rope", kind="l2"), alibi=True),
    "experts": with_ffn(tiny_spec(), Moe(8, 24, Router(2))),
    "experts with everything": with_ffn(
        tiny_spec(residual=Sandwich()),
        Moe(
            8,
            24,
            Router(2, "sigmoid", bias=True, choice_bias=True, by_token=True),
            bias=True,
            activation=Activation("oai", 7.0, 1.7),
            shared=Dense(16),
            shared_gate=True,
            weight_on_input=True,
        ),
    ),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_blocks_branch_on_their_spec_alone_and_use_every_weight(spec: ModelSpec) -> None:
    trace = Trace()
    decoder = Decoder(spec)
    assert isinstance(decoder.compute(trace), Rows)
    assert trace.weights == {module.name for module in decoder.modules() if isinstance(module, Weights)}
    assert trace.weights == {param.name.rpartition(".")[0] for param in declared(spec)}


def test_the_operations_of_a_layer() -> None:
    trace = Trace()
    Decoder(replace(tiny_spec(), layers=tiny_spec().layers[:1])).compute(trace)
    assert trace.asked == ["embed", "linears", "keep", "attend", "add_linear", "gated", "add_linear", "head"]


def test_declared_parameters_say_how_they_split_and_what_a_token_uses() -> None:
    spec = SPECS["experts"]
    params = {param.name.removeprefix("layers.0."): param for param in declared(spec)}
    assert params["self_attn.q_proj.weight"].split == "out" and params["self_attn.o_proj.weight"].split == "in"
    experts = params["mlp.experts.down_proj.weight"]
    assert (experts.shape, experts.role, experts.split, experts.share) == ((8, 32, 24), "experts", "experts", 0.25)
    idle = 2 * 3 * 6 * 24 * 32
    assert count(spec).total - count(spec).active == idle


def test_many_layers_are_declared_by_building_one_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, mixture = SPECS["plain"].layers[0], SPECS["experts"].layers[0]
    spec = replace(SPECS["experts"], layers=(plain, *[mixture] * 6, plain, mixture))
    everything, built, build = params_of(Decoder(spec)), [], Layer.__init__

    def counted(self: Layer, *arguments: Any) -> None:
        built.append(self)
        build(self, *arguments)

    monkeypatch.setattr(Layer, "__init__", counted)
    assert declared(spec) == everything and len(built) == 2
