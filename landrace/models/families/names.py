"""`Naming`: from the decoder's parameter names to the names, rows and layouts of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from landrace.models.families.weights import Form, LastFirst, Rotary, Rounds, Shape, Source
from landrace.models.mixer_spec import Gdn, Gqa, Kda, Mixer, Mla
from landrace.models.spec import LayerSpec, ModelSpec

EXPERTS = "mlp.experts"
NORM = "norm.weight"
OF_VALUE_HEADS = ("in_proj_v", "in_proj_z", "in_proj_b", "in_proj_a", "v_conv", "a_log", "dt_bias")
"""Modules of a gated delta net whose rows are value heads'; those of `out_proj` are its columns."""

ONE_BY_ONE: Mapping[str, str] = {EXPERTS: "mlp.experts.{}"}
"""A tensor for each expert, as most hub files have them."""
DEEPSEEK_EXPERTS: Mapping[str, str] = {
    "mlp.router": "mlp.gate",
    "mlp.router.choice_bias": "mlp.gate.e_score_correction_bias",
    "mlp.shared_expert": "mlp.shared_experts",
}
"""DeepSeek-V3's names of what is beside the experts, which many families have taken over."""
JOINT: Mapping[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight"),
    "mlp.experts.down_proj": ("mlp.experts.down_proj.weight",),
}
"""All experts in two tensors, [experts, 2 * d_hidden, d_model] and [experts, d_model, d_hidden]: how transformers holds
them, and writes them when it is told to keep its own names."""


@dataclass(frozen=True)
class MtpNaming:
    """What the layer that guesses the token after the next one is called. {} is the number after the last layer's."""

    layer: str = "layers.{}."
    embedding_norm: str = "layers.{}.enorm"
    hidden_norm: str = "layers.{}.hnorm"
    proj: str = "layers.{}.eh_proj"
    embedding_proj: str = "layers.{}.e_proj"
    hidden_proj: str = "layers.{}.h_proj"
    norm: str = "layers.{}.shared_head.norm"
    in_body: bool = True
    """Whether all that comes behind the prefix of the decoder's tensors."""


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
    """What of a layer is called otherwise, ours to theirs: a parameter, or the beginning of several; the longest
    counts. {} in theirs is the expert's number."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Their module to ours whose rows it holds, in order; or their tensor to our parameters."""
    alternating: Collection[str] = ()
    """Which of the `fused` hold their parts' rows in turn, not one part after another."""
    by_head: Collection[str] = ()
    """Which of the `fused` hold their parts' rows head by head, not one part after another."""
    head_axis: Collection[str] = ()
    """Their tensors whose first axis counts heads."""
    transposed: Collection[str] = ()
    """Their tensors that are stored [in, out]."""
    adapted_as_stored: bool = False
    """transformers keeps experts [in, out] in modules that do not say so: peft's A and B are those of the transpose."""
    once: Mapping[str, str] = field(default_factory=dict)
    """Our parameters of a layer that the file keeps outside its layers, by the whole name. It may hold further rows."""
    joined: Collection[str] = ()
    """Our parameters of a layer whose rows lie in several of their tensors, whose number is {}."""
    first_entry: Collection[str] = ()
    """Their tensors with an axis more than our parameter, which is the first entry."""
    with_ones: Mapping[str, Shape] = field(default_factory=dict)
    """Our vectors that have axes of length 1 in the file: see `Source.ones`."""
    padded: Collection[str] = ()
    """Our vectors of a delta net with a number for each head, behind which the file may have zeros up to a head's width
    (Kimi-K3)."""
    heads_in_rounds: bool = False
    """Whether value heads lie in the file as `Gdn.rounds` says, and not group by group."""
    interleaved: bool = False
    """Whether q and k rows are stored for the interleaved rotary layout."""
    index_interleaved: bool = False
    """Whether those of an indexer are."""
    index_last: bool = False
    """Whether the last channels of an indexer's heads turn, not the first."""
    norms_around_zero: bool = False
    """Whether a norm multiplies by 1 + its stored weight."""
    norms_around_one: Collection[str] = ()
    """Our norms that multiply by their stored weight all the same."""
    forms: Mapping[str, Form] = field(default_factory=dict)
    """Our parameters of a layer that are stored in another form."""
    spare_rows: int = 0
    """Rows of the embedding past the vocabulary, which no text uses. A file that is read may have none."""
    passed_by: Collection[int] = ()
    """Numbers of the file's layers that the decoder has not, and counts none of its own by."""
    unit_head: int | None = None
    """Size of the vocabulary with which a model's output head has its rows divided by their lengths (Baichuan 2)."""
    mtp: MtpNaming = field(default_factory=MtpNaming)

    def prefix(self, tensor_names: Collection[str] = ()) -> tuple[str, str]:
        """The pair of `prefixes` under which a file with these tensors keeps its embedding; the first if none fits."""
        for body, head in self.prefixes:
            if f"{body}{self.embedding}.weight" in tensor_names:
                return body, head
        return self.prefixes[0]

    def sources(
        self, spec: ModelSpec, parameters: Mapping[str, Shape], tensor_names: Collection[str] = ()
    ) -> dict[str, Source]:
        """A `Source` for each of `parameters`, by name: those of `Decoder(spec)`, with their shapes."""
        body, head = self.prefix(tensor_names)
        found: dict[str, Source] = {}
        layers: list[dict[str, Shape]] = [{} for _ in spec.layers]
        of_mtp: dict[str, Shape] = {}
        for name, shape in parameters.items():
            first, _, leaf = name.partition(".")
            if first == "layers":
                number, _, inner = leaf.partition(".")
                layers[int(number)][inner] = shape
            elif first == "mtp":
                of_mtp[leaf] = shape
            elif first == "embed_tokens":
                rows = (0, spec.vocab_size) if self.spare_rows else None
                found[name] = Source(f"{body}{self.embedding}.{leaf}", rows, spare=self.spare_rows)
            elif first == "norm":
                found[name] = self._norm(f"{body}{self.norm}.{leaf}")
            elif first in ("hc_head", "head_blocks"):
                theirs = body + self._renamed(name)
                own = Source(theirs, ones=self.with_ones.get(name))
                found[name] = self._norm(theirs) if name.endswith(NORM) else own
            else:
                unit = leaf == "weight" and spec.vocab_size == self.unit_head
                form: Form = "unit_rows" if unit else "plain"
                found[name] = Source(f"{head}{self.head}.{leaf}", form=form)
        kept = (place for place in count() if place not in self.passed_by)
        for n, (place, shapes, layer) in enumerate(zip(kept, layers, spec.layers, strict=False)):
            before = body + self.layer.format(place)
            found |= {f"layers.{n}.{name}": source for name, source in self._layer(before, shapes, layer, tensor_names)}
        if spec.mtp is not None:
            body = body if self.mtp.in_body else ""
            of_mtp_layer = self._mtp(body, len(layers), of_mtp, spec.mtp, tensor_names)
            found |= {f"mtp.{name}": source for name, source in of_mtp_layer}
        return found

    def _mtp(
        self, body: str, number: int, shapes: Mapping[str, Shape], layer: LayerSpec, tensor_names: Collection[str]
    ) -> Iterator[tuple[str, Source]]:
        before = body + self.mtp.layer.format(number)
        inner = {name.removeprefix("layer."): shape for name, shape in shapes.items() if name.startswith("layer.")}
        for name, source in self._layer(before, inner, layer, tensor_names):
            yield f"layer.{name}", source
        for name in (name for name in shapes if not name.startswith("layer.")):
            module, _, leaf = name.partition(".")
            if module == "hc_head":
                yield name, Source(before + self._renamed(name))
                continue
            theirs = f"{body}{getattr(self.mtp, module).format(number)}.{leaf}"
            yield name, self._norm(theirs) if module.endswith("norm") else Source(theirs)

    def _layer(
        self, before: str, shapes: Mapping[str, Shape], layer: LayerSpec, tensor_names: Collection[str]
    ) -> Iterator[tuple[str, Source]]:
        parts = self._parts(shapes, layer.mixer.n_heads)
        for name, shape in shapes.items():
            theirs, rows, step, heads = parts.get(name) or (self._renamed(name), None, 1, None)
            tensor = before + theirs
            expert = name.startswith(EXPERTS)
            transposed = theirs in self.transposed
            if name in self.once:
                yield name, Source(self.once[name], (0, shape[0]))
            elif name in self.joined:
                found = next(n for n in count() if tensor.replace("{}", str(n)) not in tensor_names)
                yield name, Source(tensor, stacked=max(1, found), joined=True)
            elif "{}" in theirs:
                yield name, Source(tensor, rows, stacked=shape[0], transposed=transposed)
            elif expert:
                per_expert = rows is not None or transposed
                yield (
                    name,
                    Source(
                        tensor,
                        rows,
                        step=step,
                        per_expert=per_expert,
                        transposed=transposed,
                        adapted_as_stored=self.adapted_as_stored,
                    ),
                )
            elif theirs in self.first_entry:
                yield name, Source(tensor, entry=0)
            elif name in self.padded and isinstance(layer.mixer, Kda):
                yield name, Source(tensor, (0, shape[0]), spare=max(0, layer.mixer.head_dim - shape[0]))
            elif name.endswith(NORM) and name not in self.norms_around_one:
                yield name, replace(self._norm(tensor), rotary=self._rotary(name, layer))
            else:
                yield (
                    name,
                    Source(
                        tensor,
                        rows,
                        self._rotary(name, layer),
                        *self._rounds(name, layer.mixer),
                        ones=self.with_ones.get(name),
                        step=step,
                        transposed=transposed,
                        heads=heads,
                        by_head=layer.mixer.n_heads if theirs in self.head_axis else 0,
                        form=self.forms.get(name, "plain"),
                    ),
                )

    def _norm(self, tensor: str) -> Source:
        return Source(tensor, form="plus_one" if self.norms_around_zero else "plain")

    def _renamed(self, name: str) -> str:
        """The parameter's name in the file, after the layer's prefix."""
        known = name
        while known:
            if known in self.renamed:
                return self.renamed[known] + name[len(known) :]
            known = known.rpartition(".")[0]
        return name

    def _parts(
        self, shapes: Mapping[str, Shape], n_heads: int
    ) -> dict[str, tuple[str, tuple[int, int] | None, int, int | None]]:
        """Of each parameter that lies in a fused tensor: that tensor, its rows, the step between them, and how many
        heads' rows they are."""
        found: dict[str, tuple[str, tuple[int, int] | None, int, int | None]] = {}
        for theirs, ours in self._fused(shapes):
            heads = n_heads if theirs in self.by_head else None
            rows = [shapes[name][1 if name.startswith(EXPERTS) else 0] // (heads or 1) for name in ours]
            start, total, turns = 0, sum(rows), len(ours)
            for number, name in enumerate(ours):
                if turns == 1:
                    found[name] = (theirs, None, 1, None)
                elif theirs in self.alternating:
                    found[name] = (theirs, (number, total), turns, None)
                else:
                    found[name] = (theirs, (start, start + rows[number]), 1, heads)
                start += rows[number]
        return found

    def _fused(self, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Their tensors with parameters of this layer, and which."""
        for theirs, ours in self.fused.items():
            if all(name in shapes for name in ours):
                yield theirs, ours
            for leaf in ("weight", "bias"):
                if all(f"{name}.{leaf}" in shapes for name in ours):
                    yield f"{theirs}.{leaf}", tuple(f"{name}.{leaf}" for name in ours)

    def _rotary(self, name: str, layer: LayerSpec) -> Rotary | LastFirst | None:
        attention, module = layer.mixer, name.removeprefix("self_attn.").rpartition(".")[0]
        if module.startswith("indexer.") and isinstance(attention, Mla):
            return self._index_rotary(module, attention)
        if not self.interleaved or not name.startswith("self_attn."):
            return None
        if isinstance(attention, Mla):
            return _latent_rotary(module, attention)
        if not isinstance(attention, Gqa) or module not in ("q_proj", "k_proj"):
            return None
        heads = attention.n_heads if module == "q_proj" else attention.n_kv_heads
        # Without rotation the order of a head's channels is free, and converters reorder such layers like the others.
        turned = attention.rope.rotary_dim if attention.rope is not None else attention.head_dim
        return Rotary(heads, attention.head_dim, turned)

    def _rounds(self, name: str, mixer: Mixer) -> tuple[Rounds | None, Rounds | None]:
        """How the file's order of value heads differs from the parameter's, in its rows and in its columns."""
        if not isinstance(mixer, Gdn) or mixer.rounds == self.heads_in_rounds or mixer.n_heads == mixer.n_value_heads:
            return None, None
        n_each = mixer.n_value_heads // mixer.n_heads
        rounds = Rounds(mixer.n_heads, n_each) if mixer.rounds else Rounds(n_each, mixer.n_heads)
        module = name.removeprefix("self_attn.").partition(".")[0]
        return rounds if module in OF_VALUE_HEADS else None, rounds if module == "out_proj" else None

    def _index_rotary(self, module: str, attention: Mla) -> Rotary | LastFirst | None:
        index, turned = attention.indexer, attention.rope_dim
        if index is None or module not in ("indexer.wq_b", "indexer.wk", "indexer.k_norm"):
            return None
        heads = index.n_heads if module == "indexer.wq_b" else 1
        if self.index_last:
            return LastFirst(heads, index.head_dim, turned, self.index_interleaved)
        return Rotary(heads, index.head_dim, turned) if self.index_interleaved else None


PLAIN = Naming()


def with_experts(
    hub: Mapping[str, str], own: Mapping[str, str] | None = None, *, base: Naming = PLAIN
) -> tuple[Naming, Naming]:
    """A tensor for each expert, as the hub's files have it, and all in one as transformers writes them. `hub` and
    `own`: what more of a layer than `base` says is called otherwise in each, the same without `own`."""
    return (
        replace(base, renamed={**base.renamed, **ONE_BY_ONE, **hub}),
        replace(base, renamed={**base.renamed, **(hub if own is None else own)}, fused={**base.fused, **JOINT}),
    )


def _latent_rotary(module: str, attention: Mla) -> Rotary | None:
    turned = attention.rope_dim
    if module in ("q_proj", "q_b_proj"):
        return Rotary(attention.n_heads, attention.nope_dim + turned, turned, attention.nope_dim)
    if module == "kv_a_proj":
        return Rotary(1, attention.kv_rank + turned, turned, attention.kv_rank)
    return None
