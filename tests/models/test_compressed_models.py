"""Models whose attention sees a window and compressed rows, from their own files: names, fields, steps, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cpu_models import at_once, at_random, on_cpu, stepped
from safetensors.torch import load_file, save_file
from tiny_models import cached_logits, load, packed_logits, random_ids, reference, reference_logits, save, worst

from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.checkpoints.write import write_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.compressed_spec import Compressed, Compression
from landrace.models.decoder import Decoder
from landrace.models.families import read_config
from landrace.models.lora_spec import LoraSpec
from landrace.models.spec import ModelSpec
from landrace.training.options import TuneOptions
from landrace.training.trainee import trainee

pytest.importorskip("transformers")

SEQUENCES = random_ids()
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}


def tiny(shared: Path, **changes: Any) -> dict[str, Any]:
    kwargs = json.loads((shared / "families" / "tiny_configs.json").read_text())["deepseek_v4"]["kwargs"]
    return {**kwargs, **changes}


def saved(shared: Path, folder: Path, **changes: Any) -> tuple[Any, Checkpoint]:
    model = reference("deepseek_v4", tiny(shared, **changes))
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


def opened(checkpoint: Checkpoint) -> Decoder:
    return Decoder(checkpoint.spec).load(checkpoint.tensors())


RATES = {"compressed_sparse_attention": 2, "heavily_compressed_attention": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "spans beyond the window": {"sliding_window": 3},
    "other rates": {"compress_rates": RATES, "index_topk": 7},
    "stretched turning of compressed layers": {"rope_parameters": YARN},
    "scores by sigmoid, more streams": {"scoring_func": "sigmoid", "hc_mult": 3},
    "turning of all channels": {"partial_rotary_factor": 0.5, "index_head_dim": 16},
    "windows alone": {"layer_types": ["sliding_attention"] * 4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    model = reference("deepseek_v4", tiny(shared, **VARIANTS[variant]))
    _, decoder = load(*save(model, tmp_path))
    theirs = reference_logits(model, SEQUENCES)
    assert worst(packed_logits(decoder, SEQUENCES), theirs) < 1e-4
    assert worst(cached_logits(decoder, SEQUENCES, prefill=17), theirs) < 1e-4
    served = on_cpu(extension, decoder, "float32")
    assert worst(packed_logits(served, SEQUENCES), theirs) < 1e-4  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_rows_do_not_depend_on_steps(dtype: torch.dtype, shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    """To the bit, on every instruction set and number of threads."""
    _, checkpoint = saved(shared, tmp_path)
    decoder, expected = opened(checkpoint), None
    for isa in extension.instruction_sets():
        for threads, steps in ((1, at_once(SEQUENCES)), (2, at_random(SEQUENCES, 1)), (2, at_random(SEQUENCES, 2))):
            found = torch.cat(stepped(on_cpu(extension, decoder, isa=isa, threads=threads), SEQUENCES, steps, dtype))
            expected = found if expected is None else expected
            assert torch.isfinite(found).all() and torch.equal(found, expected), (isa, threads)


def test_the_reference_keeps_rows_in_float16(shared: Path, tmp_path: Path) -> None:
    _, checkpoint = saved(shared, tmp_path)
    decoder, steps = opened(checkpoint), at_random(SEQUENCES, 1)
    with torch.no_grad():
        exact, near = (stepped(decoder, SEQUENCES, steps, dtype) for dtype in (torch.float32, torch.float16))  # type: ignore[arg-type]
    assert worst(exact, packed_logits(decoder, SEQUENCES)) < 1e-4
    assert 0 < worst(near, exact) < 1e-2


def test_more_rows_than_are_taken_at_once(shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    """Attention takes 256 of a list, and as many positions, at a time: all compressed rows, those that are chosen, and
    the window lie in several such chunks."""
    kwargs = {"compress_rates": dict.fromkeys(RATES, 2), "index_topk": 300, "sliding_window": 270}
    model = reference("deepseek_v4", tiny(shared, **kwargs, max_position_embeddings=1024))
    _, decoder = load(*save(model, tmp_path))
    sequences = random_ids((640, 5))
    theirs = reference_logits(model, sequences)
    served = on_cpu(extension, decoder, "float32")
    assert worst(packed_logits(served, sequences), theirs) < 1e-4  # type: ignore[arg-type]
    whole, pieces = (stepped(served, sequences, steps) for steps in (at_once(sequences), at_random(sequences, 1)))
    assert all(map(torch.equal, whole, pieces))
    assert worst(whole, theirs) < 1e-4


def with_attention(spec: ModelSpec, change: Callable[[Compressed], Compressed]) -> ModelSpec:
    layers = []
    for layer in spec.layers:
        assert isinstance(layer.mixer, Compressed)
        layers.append(replace(layer, mixer=change(layer.mixer)))
    return replace(spec, layers=tuple(layers))


def with_selection(mixer: Compressed, **changes: Any) -> Compressed:
    if mixer.compression is None or mixer.compression.selection is None:
        return mixer
    selection = replace(mixer.compression.selection, **changes)
    return replace(mixer, compression=replace(mixer.compression, selection=selection))


FLIPS: dict[str, Callable[[Compressed], Compressed]] = {
    "a wider window": lambda m: replace(m, window=m.window + 1),
    "another scale": lambda m: replace(m, scale=m.scale * 1.2),
    "a smaller eps": lambda m: replace(m, norm_eps=1e-6),
    "another base": lambda m: replace(m, rope=replace(m.rope, theta=m.rope.theta * 2)),
    "fewer channels turn": lambda m: replace(m, rope=replace(m.rope, rotary_dim=m.rope.rotary_dim // 2)),
    "one more row chosen": lambda m: with_selection(m, top_k=4),
}


@pytest.mark.parametrize("flip", FLIPS)
def test_one_wrong_field_shows(flip: str, shared: Path, tmp_path: Path) -> None:
    model, checkpoint = saved(shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    assert worst(packed_logits(right, SEQUENCES), theirs) < 1e-4
    wrong = with_attention(checkpoint.spec, FLIPS[flip])
    assert worst(packed_logits(Decoder(wrong).load(right.named_tensors()), SEQUENCES), theirs) > 1e-3


def test_every_weight_counts(shared: Path, tmp_path: Path) -> None:
    model, checkpoint = saved(shared, tmp_path)
    theirs, right = reference_logits(model, SEQUENCES), opened(checkpoint)
    leaves = {name.split(".", 3)[3] for name, _ in right.named_tensors() if ".self_attn." in name}
    assert len(leaves) == 18
    for leaf in sorted(leaves):
        turned = (  # What is compressed by a softmax, or normalised, does not see a factor.
            (name, t.flip(-1) if name.endswith(leaf) else t) for name, t in right.named_tensors()
        )
        assert worst(packed_logits(Decoder(checkpoint.spec).load(turned), SEQUENCES), theirs) > 1e-3, leaf


def test_as_its_vendor_names_it(shared: Path, tmp_path: Path) -> None:
    """transformers writes other names than the hub's files have, which hold further layers too."""
    _, checkpoint = saved(shared, tmp_path)
    theirs = dict(checkpoint.tensors())
    changes = {"model.": "", "embed_tokens.": "embed.", "hc_head.hc_": "hc_head_", ".attn.norm.": ".attn.kv_norm."}
    renamed = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        for written, published in changes.items():
            name = name.replace(written, published)
        renamed[name] = tensor
    renamed["mtp.0.attn.wq_a.weight"] = torch.zeros(4, 4)
    assert {"hc_head_fn", "embed.weight", "layers.2.attn.indexer.compressor.ape"} <= renamed.keys()
    (tmp_path / "published").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "published" / "config.json")
    save_file(renamed, tmp_path / "published" / "model.safetensors")
    ours = dict(open_checkpoint(tmp_path / "published").tensors())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_adapter_of_grouped_results(shared: Path, extension: ModuleType, tmp_path: Path) -> None:
    """peft has none of such a projection: both backends add the same, and what the sum of the matrices gives."""
    _, checkpoint = saved(shared, tmp_path)
    decoder = opened(checkpoint)
    generator, tensors, summed = torch.Generator().manual_seed(2), {}, dict(decoder.named_tensors())
    for name, (n_out, n_in) in decoder.adaptable(("o_a_proj",)).items():
        a, b = torch.randn(3, n_in, generator=generator) * 0.2, torch.randn(n_out, 3, generator=generator) * 0.2
        tensors |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
        summed[f"{name}.weight"] = summed[f"{name}.weight"] + 2 * b @ a
    expected = packed_logits(Decoder(checkpoint.spec).load(summed.items()), SEQUENCES)
    assert worst(packed_logits(decoder, SEQUENCES), expected) > 1e-2
    spec = LoraSpec(rank=3, alpha=6.0, targets=("o_a_proj",))
    for one in (decoder, on_cpu(extension, decoder, "float32")):
        place = one.add_adapter(spec, tensors)
        batch = replace(ForwardBatch.packed(SEQUENCES), adapters=(AdapterRows(place, None),))
        with torch.no_grad():
            found = list(one(batch).split([len(ids) for ids in SEQUENCES]))
        assert worst(found, expected) < 1e-4


def test_full_tuning_leaves_tables_as_they_are(shared: Path, tmp_path: Path) -> None:
    """Which experts a token goes to is no number that learns; what is written is opened again."""
    _, checkpoint = saved(shared, tmp_path / "model")
    decoder = opened(checkpoint)
    with trainee(decoder, TuneOptions(method="full")) as tuned:
        assert dict(decoder.named_tensors()).keys() - tuned.parameters.keys() == {"layers.0.mlp.router.table"}
    write_checkpoint(tmp_path / "again", checkpoint.config, checkpoint.hub_sources, decoder.named_tensors(), [])
    again = open_checkpoint(tmp_path / "again")
    assert again.config["torch_dtype"] == "float32"
    theirs = dict(checkpoint.tensors())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in again.tensors())


def test_older_and_newer_keys_say_the_same(shared: Path) -> None:
    new = tiny(shared, num_hidden_layers=3, layer_types=None, mlp_layer_types=None, compress_rates=None)
    new = {key: value for key, value in new.items() if value is not None}
    kinds = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    yarn = {**YARN, "attention_factor": 1.0, "rope_theta": 160_000.0, "partial_rotary_factor": 0.25}
    newer = {
        **new, "layer_types": kinds, "mlp_layer_types": ["hash_moe", "hash_moe", "moe"],
        "rope_parameters": {
            "main": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25}, "compress": yarn,
        },
    }  # fmt: skip
    older = {
        **{key: value for key, value in new.items() if key != "partial_rotary_factor"},
        "compress_ratios": [0, 4, 128, 0], "num_hash_layers": 2, "qk_rope_head_dim": 8, "rope_scaling": YARN,
        "topk_method": "noaux_tc", "num_nextn_predict_layers": 1, "expert_dtype": "fp4",
    }  # fmt: skip
    found = [read_config({"model_type": "deepseek_v4", **one}).spec for one in (newer, older)]
    assert found[0] == found[1]
    mixers = [layer.mixer for layer in found[0].layers]
    assert [isinstance(one, Compressed) and one.compression and one.compression.ratio for one in mixers] == [
        None,
        4,
        128,
    ]
    assert isinstance(mixers[2], Compressed) and mixers[2].compression == Compression(128, False)


REFUSED: dict[str, dict[str, Any]] = {
    "a ratio that nobody has": {"layer_types": None, "compress_ratios": [0, 4, 8, 4]},
    "groups that share heads": {"o_groups": 3},
    "layers of another kind": {"layer_types": ["full_attention"] * 4},
    "experts of another kind": {"mlp_layer_types": ["dense"] * 4},
    "an indexer that cannot turn": {"index_head_dim": 4},
    "another score": {"scoring_func": "tanh"},
    "several shared experts": {"n_shared_experts": 2},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_is_refused(case: str, shared: Path) -> None:
    with pytest.raises((CheckpointError, UnsupportedError)):
        read_config({"model_type": "deepseek_v4", **tiny(shared, **REFUSED[case])})
