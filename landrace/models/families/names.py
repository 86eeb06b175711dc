"""`Naming`: from the decoder's parameter names to the names and rows of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from landrace.models.families.weights import Rotary, Source
from landrace.models.spec import LayerSpec, ModelSpec, Sandwich


@dataclass(frozen=True)
class Naming:
    """How one kind of checkpoint names its tensors. The defaults are Llama's, which the decoder uses too."""

    prefixes: tuple[tuple[str, str], ...] = (("model.", ""), ("", ""))
    """Prefix of the decoder's tensors and of the output head's, most usual first; one pair holds for a whole file."""
    embedding: str = "embed_tokens"
    layer: str = "layers.{}."
    norm: str = "norm"
    head: str = "lm_head"
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Modules of a layer that are called otherwise: ours to theirs."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Their module to ours whose rows it holds, in order."""
    interleaved: bool = False
    """Whether q and k rows are stored for the interleaved rotary layout."""

    def prefix(self, tensor_names: Collection[str] = ()) -> tuple[str, str]:
        """The pair of `prefixes` under which a file with these tensors keeps its embedding; the first if none fits."""
        for body, head in self.prefixes:
            if f"{body}{self.embedding}.weight" in tensor_names:
                return body, head
        return self.prefixes[0]

    def sources(self, spec: ModelSpec, tensor_names: Collection[str] = ()) -> dict[str, Source]:
        """A `Source` for every parameter of `Decoder(spec)`, by the parameter's name."""
        body, head = self.prefix(tensor_names)
        found = {"embed_tokens.weight": Source(f"{body}{self.embedding}.weight")}
        for n, layer in enumerate(spec.layers):
            modules = tuple(_modules(layer, spec))
            places = self._places({name: rows for name, rows, _ in modules})
            for name, _, leaves in modules:
                theirs, span = places[name]
                for leaf in leaves:
                    tensor = f"{body}{self.layer.format(n)}{theirs}.{leaf}"
                    found[f"layers.{n}.{name}.{leaf}"] = Source(tensor, span, self._rotary(name, layer))
        found["norm.weight"] = Source(f"{body}{self.norm}.weight")
        if not spec.tie_embeddings:
            for leaf in _leaves(spec.lm_head_bias):
                found[f"lm_head.{leaf}"] = Source(f"{head}{self.head}.{leaf}")
        return found

    def _places(self, rows: Mapping[str, int]) -> dict[str, tuple[str, tuple[int, int] | None]]:
        """Our module to theirs and its span of rows (None: all)."""
        places: dict[str, tuple[str, tuple[int, int] | None]] = {
            name: (self.renamed.get(name, name), None) for name in rows
        }
        for theirs, parts in self.fused.items():
            start = 0
            for name in parts:
                places[name] = (theirs, (start, start + rows[name]))
                start += rows[name]
        return places

    def _rotary(self, name: str, layer: LayerSpec) -> Rotary | None:
        attention = layer.mixer
        if not self.interleaved or name not in ("self_attn.q_proj", "self_attn.k_proj"):
            return None
        heads = attention.n_heads if name.endswith("q_proj") else attention.n_kv_heads
        # Without rotation the order of a head's channels is free, and converters reorder such layers like the others.
        turned = attention.rope.rotary_dim if attention.rope is not None else attention.head_dim
        return Rotary(heads, attention.head_dim, turned)


def _leaves(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def _modules(layer: LayerSpec, spec: ModelSpec) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Name, rows and parameters of each module of a decoder layer."""
    attention, ffn = layer.mixer, layer.ffn
    q_rows, kv_rows = attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim
    yield "input_layernorm", spec.d_model, ("weight",)
    yield "self_attn.q_proj", q_rows, _leaves(attention.qkv_bias)
    yield "self_attn.k_proj", kv_rows, _leaves(attention.qkv_bias)
    yield "self_attn.v_proj", kv_rows, _leaves(attention.qkv_bias)
    yield "self_attn.o_proj", spec.d_model, _leaves(attention.o_bias)
    if attention.qk_norm is not None:
        yield "self_attn.q_norm", attention.head_dim, ("weight",)
        yield "self_attn.k_norm", attention.head_dim, ("weight",)
    yield "post_attention_layernorm", spec.d_model, ("weight",)
    yield "mlp.gate_proj", ffn.d_hidden, _leaves(ffn.bias)
    yield "mlp.up_proj", ffn.d_hidden, _leaves(ffn.bias)
    yield "mlp.down_proj", spec.d_model, _leaves(ffn.bias)
    if isinstance(layer.residual, Sandwich):
        yield "post_self_attn_layernorm", spec.d_model, ("weight",)
        yield "post_mlp_layernorm", spec.d_model, ("weight",)
