"""Tiny random models of transformers, and the same weights in our decoder."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from landrace.kernels.layer_cache import LayerMemory, LayerState
from landrace.kernels.ngrams import NGrams
from landrace.kernels.streams import HyperConnections
from landrace.models.batch import CacheView, ForwardBatch
from landrace.models.declared import shapes_of
from landrace.models.decoder import Decoder
from landrace.models.families import FamilyModel, read_config
from landrace.models.ffn_spec import Dense
from landrace.models.mixer_spec import Gdn, Gqa, Mla, Recurrent, RopeSpec
from landrace.models.spec import PLAIN, GatedStreams, Hyper, LayerSpec, ModelSpec, NGramEmbedding, Residual, Streams

LENGTHS = (40, 23)
WITH_EXPERTS = (
    *("qwen2_moe", "qwen3_moe", "qwen3_vl_moe", "qwen3_omni_moe_thinker", "glm4_moe", "glm4v_moe", "ernie4_5_moe"),
    *("ernie4_5_vl_moe", "hunyuan_v1_moe", "hy_v3", "minimax_m2", "gpt_oss", "step3p7", "llama4_text", "llama4"),
)
"""Types with experts behind grouped-query attention."""
WITH_LATENTS = ("deepseek_v2", "deepseek_v3", "minicpm3")
WITH_STATES = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "kimi_linear", "minimax")


def reference(model_type: str, kwargs: Mapping[str, Any], model_class: str | None = None) -> Any:
    """A transformers model in float32 whose ones and zeros are perturbed, so that forgetting one shows."""
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **json.loads(json.dumps(kwargs)))
    torch.manual_seed(0)
    chosen = getattr(transformers, model_class) if model_class else transformers.AutoModelForCausalLM
    make = chosen._from_config if model_class else chosen.from_config
    model = make(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(1)
    seen: set[int] = set()
    with torch.no_grad():
        for name, parameter in model.state_dict(keep_vars=True).items():
            if name.endswith(".tid2eid"):  # Experts by token: different ones, of the router's.
                scores = torch.rand(len(parameter), model.config.n_routed_experts, generator=generator)
                parameter.copy_(scores.argsort(-1)[:, : parameter.shape[1]])
            if not parameter.is_floating_point() or parameter.data_ptr() in seen:
                continue
            seen.add(parameter.data_ptr())
            if parameter.dim() <= 1 or parameter.std() < 1e-8:
                parameter.add_((torch.rand(parameter.shape, generator=generator) - 0.5) * 0.4)
    return model


def save(model: Any, folder: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Through `save_pretrained`: the config.json and the tensors it wrote."""
    model.save_pretrained(folder, **options)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def load(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[FamilyModel, Decoder]:
    model = read_config(config, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    decoder = Decoder(model.spec)
    return model, decoder.load((name, source.take(tensors)) for name, source in model.sources.items())


def opened_for(decoder: Decoder, length: int) -> Decoder:
    """The same weights, opened for sequences of up to `length` tokens."""
    return Decoder(decoder.spec.for_length(length)).load(decoder.named_tensors())


def random_ids(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 110, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def packed_logits(decoder: Decoder, sequences: list[list[int]]) -> list[Tensor]:
    return list(decoder(ForwardBatch.packed(sequences, device=decoder.device)).split([len(ids) for ids in sequences]))


@torch.no_grad()
def reference_logits(model: Any, sequences: list[list[int]]) -> list[Tensor]:
    """Each sequence alone, in a copy: a dynamic rotary embedding remembers the longest sequence it has seen."""
    return [copy.deepcopy(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in sequences]


@torch.no_grad()
def tensors_of(layer: LayerMemory) -> list[Tensor]:
    """What a layer keeps between steps."""
    if isinstance(layer, LayerState):
        return list(layer.parts)
    return [tensor for part in layer.parts for tensor in part.tensors]


def cached_logits(decoder: Decoder, sequences: list[list[int]], prefill: int) -> list[Tensor]:
    """Logits of every position: `prefill` tokens at once, the rest one at a time, through a shuffled cache."""
    longest = max(map(len, sequences))
    order = torch.randperm(longest * len(sequences), generator=torch.Generator().manual_seed(5))
    slots = list(order.view(len(sequences), longest))
    layers = decoder.new_cache([longest * len(sequences)] * len(decoder.spec.cache_groups))
    # NaN shows a slot that is read before it is written. Slot 0 stands in for the missing keys of short sequences and
    # is then masked, so it must be finite.
    for layer in layers:
        for tensor in tensors_of(layer):
            tensor.fill_(float("nan"))
            tensor[0] = float("nan") if isinstance(layer, LayerState) else 0
    out: list[list[Tensor]] = [[] for _ in sequences]
    start = 0
    while start < longest:
        end = prefill if start == 0 else start + 1
        live = [s for s, ids in enumerate(sequences) if start < len(ids)]
        spans = [(s, start, min(end, len(sequences[s]))) for s in live]
        starts = [0]
        for _, first, last in spans:
            starts.append(starts[-1] + last - first)
        batch = ForwardBatch(
            token_ids=torch.tensor([t for s, first, last in spans for t in sequences[s][first:last]]),
            positions=torch.tensor([p for _, first, last in spans for p in range(first, last)]),
            starts=tuple(starts),
            cache=CacheView.whole(
                layers,
                decoder.spec.cache_groups,
                torch.cat([slots[s][first:last] for s, first, last in spans]),
                tuple(slots[s][:last] for s, _, last in spans),
                live,
            ),
        )
        for s, part in zip(live, decoder(batch).split([last - first for _, first, last in spans]), strict=True):
            out[s].append(part)
        start = end
    return [torch.cat(parts) for parts in out]


def tiny_spec(*, residual: Residual = PLAIN, **changes: Any) -> ModelSpec:
    """A two-layer model of our own; `changes` go to its attention."""
    facts: dict[str, Any] = {
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 12,
        "scale": 12**-0.5,
        "rope": RopeSpec(10_000.0, 12),
        **changes,
    }
    layer = LayerSpec(Gqa(**facts), Dense(40), residual)
    return ModelSpec(
        vocab_size=110, d_model=32, layers=(layer, layer), norm_eps=1e-5, tie_embeddings=False, max_length=256
    )


DELTA = Gdn(n_heads=2, n_value_heads=4, key_dim=8, value_dim=12, conv_width=4)


def with_delta(spec: ModelSpec, delta: Recurrent = DELTA) -> ModelSpec:
    """Its first layer's attention replaced by a gated delta net, or by another recurrent mixer."""
    return replace(spec, layers=(replace(spec.layers[0], mixer=delta), *spec.layers[1:]))


STREAMS: dict[str, Streams] = {
    "mixing": Hyper(HyperConnections(3, 1e-2, iterations=4)),
    "mixing, their mean": Hyper(HyperConnections(2, 1e-2, iterations=20), weighted_head=False),
    "alone": Hyper(HyperConnections(4, 1e-2, 1.7, 1e-2)),
    "gated": GatedStreams(3, 8),
}


def with_streams(spec: ModelSpec, streams: Streams) -> ModelSpec:
    return replace(spec, layers=tuple(replace(layer, residual=streams) for layer in spec.layers))


def with_ngrams() -> ModelSpec:
    """Its first layer is a delta net whose streams get embeddings of n-grams."""
    spec = with_streams(with_delta(tiny_spec()), STREAMS["gated"])
    form = NGrams((3, 5, 7), (13, 17, 19, 23), 5)
    ngrams = NGramEmbedding(form, 80, 32, 3, 3 * spec.d_model)
    return replace(spec, layers=(replace(spec.layers[0], ngrams=ngrams), *spec.layers[1:]))


def latent_spec(**changes: Any) -> ModelSpec:
    """The same with latent attention."""
    facts: dict[str, Any] = {
        "n_heads": 4,
        "kv_rank": 20,
        "nope_dim": 12,
        "rope_dim": 6,
        "v_dim": 10,
        "scale": 18**-0.5,
        "rope": RopeSpec(10_000.0, 6),
        **changes,
    }
    return replace(tiny_spec(), layers=tuple(replace(layer, mixer=Mla(**facts)) for layer in tiny_spec().layers))


def chosen_before(spec: ModelSpec) -> ModelSpec:
    """All layers but the first attend to what that one has chosen."""
    first, *rest = spec.layers
    assert isinstance(first.mixer, Mla) and first.mixer.selection is not None
    follower = replace(first.mixer, selection=replace(first.mixer.selection, own=False))
    return replace(spec, layers=(first, *(replace(layer, mixer=follower) for layer in rest)))


def random_decoder(spec: ModelSpec, seed: int = 0) -> Decoder:
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(spec)

    def values(shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        return 1 + 0.2 * noise if len(shape) == 1 else 0.2 * noise

    return decoder.load((name, values(shape)) for name, shape in shapes_of(decoder.spec).items())


def worst(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
