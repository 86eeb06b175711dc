"""Opening and writing whole checkpoints, against transformers."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from landrace.checkpoints import tensor_info
from landrace.checkpoints.bounded import read_into
from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.tensor_info import TensorInfo
from landrace.checkpoints.write import write_checkpoint
from landrace.errors import CheckpointError, UnsupportedError
from landrace.kernels.reference.quantising import quantize_weights
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 128,
}
KINDS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "tied": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, tie_word_embeddings=True)),
    "glm": lambda: transformers.GlmForCausalLM(transformers.GlmConfig(**SIZES, attention_bias=True)),
    "glm4": lambda: transformers.Glm4ForCausalLM(transformers.Glm4Config(**SIZES)),
}
IDS = list(range(3, 40))


def saved(kind: str, folder: Path) -> transformers.PreTrainedModel:
    """A tiny random model, in `folder` as transformers writes it; every parameter moved off 0 and 1."""
    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


def logits(model: transformers.PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float()


def our_logits(folder: Path) -> torch.Tensor:
    checkpoint = open_checkpoint(folder)
    decoder = Decoder(checkpoint.spec)
    decoder.load(checkpoint.tensors())
    with torch.no_grad():
        return decoder(ForwardBatch.packed([IDS]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_transformers_gives_its_logits(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    torch.testing.assert_close(our_logits(tmp_path), logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shard_bytes", [1 << 40, 20_000])
@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_transformers_and_we_read(kind: str, shard_bytes: int, tmp_path: Path) -> None:
    model = saved(kind, tmp_path / "theirs")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    extra = tmp_path / "tokenizer.json"
    extra.write_text("{}")
    ours = tmp_path / "ours"
    write_checkpoint(
        ours, checkpoint.config, checkpoint.sources, checkpoint.tensors(), [extra], shard_bytes=shard_bytes
    )
    shards = sorted(ours.glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes == 20_000) and (ours / "tokenizer.json").read_text() == "{}"
    stored = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    assert stored.keys() == theirs.keys() and all(torch.equal(stored[name], theirs[name]) for name in theirs)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(ours)
    assert loaded.dtype == torch.float32
    assert torch.equal(logits(loaded.eval()), logits(model))
    torch.testing.assert_close(our_logits(ours), logits(model), atol=1e-4, rtol=1e-4)


def test_the_written_dtype_is_that_of_the_tensors(tmp_path: Path) -> None:
    saved("llama", tmp_path / "theirs")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    write_checkpoint(
        tmp_path / "ours",
        checkpoint.config | {"dtype": "float32"},
        checkpoint.sources,
        ((name, tensor.bfloat16()) for name, tensor in checkpoint.tensors()),
    )
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16
    assert {tensor.dtype for _, tensor in open_checkpoint(tmp_path / "ours").tensors()} == {torch.bfloat16}


def test_tensors_of_one_fused_module_share_no_memory(tmp_path: Path) -> None:
    saved("glm", tmp_path)
    tensors = dict(open_checkpoint(tmp_path).tensors())
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == len(tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_stored", [False, True])
def test_every_byte_is_read_once(kind: str, as_stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections that the file keeps in one tensor read their own rows of it, and no more."""
    model = saved(kind, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ranges: list[tuple[int, int]] = []

    def counted(path: Path, offset: int, out: torch.Tensor) -> None:
        ranges.append((offset, offset + out.numel()))
        read_into(path, offset, out)

    monkeypatch.setattr(tensor_info, "read_into", counted)
    if as_stored:
        values = {name: stored.floats() for name, stored in checkpoint.stored().items()}
    else:
        values = dict(checkpoint.tensors())
    theirs = model.state_dict()
    for name, source in checkpoint.sources.items():
        assert torch.equal(values[name], source.take(theirs)), name
    ranges.sort()
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ranges))
    used = {source.tensor for source in checkpoint.sources.values()}
    assert sum(end - begin for begin, end in ranges) == sum(checkpoint.tensor_infos[name].nbytes for name in used)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0"])
def test_parts_of_blocks_are_the_rows_of_the_whole(dtype: str, tmp_path: Path) -> None:
    values = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))
    raw = quantize_weights(values, dtype)
    path = tmp_path / "blocks"
    path.write_bytes(b"head" + raw.numpy().tobytes())
    whole = TensorInfo("w", dtype, (12, 64), raw.numel(), path, 4)
    assert torch.equal(whole.part((3, 9)).load(), whole.load()[3:9])
    assert torch.equal(whole.part((3, 9)).raw(), whole.raw()[3:9])
    with pytest.raises(CheckpointError, match="cannot be cut"):
        TensorInfo("b", dtype, (64,), raw.shape[1], path, 4).part((0, 32))


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def test_missing_tensors_are_counted_and_named(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    names = [name for name in load_file(tmp_path / "model.safetensors") if "layers.1." in name]
    edit(tmp_path, **dict.fromkeys(names))
    with pytest.raises(CheckpointError, match=rf"lacks {len(names)} tensors .*and {len(names) - 5} more") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.message.count("model.layers.1.") == 5


def test_tensors_without_a_place_are_refused_unless_known_to_be_idle(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    edit(tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    open_checkpoint(tmp_path)
    edit(tmp_path, **{"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
    with pytest.raises(CheckpointError, match=r"holds 1 tensor \(model.layers.0.self_attn.q_proj.bias\)"):
        open_checkpoint(tmp_path)


def test_a_stored_tied_head_must_be_the_embedding(tmp_path: Path) -> None:
    saved("tied", tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    edit(tmp_path, **{"lm_head.weight": embedding.clone()})
    assert "lm_head.weight" not in dict(open_checkpoint(tmp_path).tensors())
    for other in (embedding + 1, embedding[:50].clone(), embedding.bfloat16()):
        edit(tmp_path, **{"lm_head.weight": other})
        with pytest.raises(UnsupportedError, match=r"'lm_head\.weight' differs"):
            list(open_checkpoint(tmp_path).tensors())


@pytest.mark.parametrize(
    ("name", "tensor", "error"),
    [
        ("model.layers.0.mlp.gate_up_proj.weight", torch.zeros(95, 32), CheckpointError),
        ("model.layers.0.self_attn.q_proj.weight", torch.zeros(31, 32), CheckpointError),
        ("model.layers.0.self_attn.q_proj.weight", torch.tensor(1.0), CheckpointError),
        ("model.layers.0.self_attn.q_proj.weight", torch.zeros(32, 32, dtype=torch.int8), UnsupportedError),
        ("model.norm.weight", torch.zeros(32, dtype=torch.float8_e4m3fn), UnsupportedError),
    ],
)
def test_tensors_that_cannot_be_used_are_named_at_opening(
    name: str, tensor: torch.Tensor, error: type[Exception], tmp_path: Path
) -> None:
    saved("glm", tmp_path)
    edit(tmp_path, **{name: tensor})
    with pytest.raises(error):
        open_checkpoint(tmp_path)


def test_the_weights_hash_is_the_files(tmp_path: Path) -> None:
    saved("llama", tmp_path / "a")
    data = (tmp_path / "a" / "model.safetensors").read_bytes()
    checkpoint = open_checkpoint(tmp_path / "a")
    seen: list[tuple[int, int]] = []
    assert checkpoint.sha256(lambda done, total: seen.append((done, total))) == hashlib.sha256(data).hexdigest()
    assert seen[-1] == (len(data), len(data))
    write_checkpoint(tmp_path / "b", checkpoint.config, checkpoint.sources, checkpoint.tensors(), shard_bytes=20_000)
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted((tmp_path / "b").glob("*.safetensors"))
    )
    assert open_checkpoint(tmp_path / "b").sha256() == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 90_000, "nested too deeply"),
        ('{"model_type": "llama", "model_type": "qwen2"}', "repeated"),
        (" " * ((1 << 22) + 1), "at most"),
    ],
)
def test_damaged_configurations_are_clear_errors(text: str, says: str, tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path)


def test_quantised_checkpoints_name_their_method(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "quip"}}))
    with pytest.raises(UnsupportedError, match="quip"):
        open_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="could not be read"):
        open_checkpoint(tmp_path / ("long" * 100))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint and str(tmp_path / "model.gguf") in caught.value.hint


def test_generation_defaults_are_kept_apart(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.generation_config["eos_token_id"] == [2, 7] and checkpoint.config["eos_token_id"] == 2


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    saved("glm", tmp_path / "theirs")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    tensors = dict(checkpoint.tensors())
    last = list(tensors)[-1]
    wrong = [
        {name: tensor for name, tensor in tensors.items() if name != last}.items(),
        [*tensors.items(), (last, tensors[last])],
        [*tensors.items(), ("extra.weight", tensors[last])],
        (tensors | {"layers.0.mlp.up_proj.weight": torch.zeros(48, 31)}).items(),
    ]
    for items in wrong:
        with pytest.raises(CheckpointError):
            write_checkpoint(tmp_path / "ours", checkpoint.config, checkpoint.sources, items, shard_bytes=20_000)
    with pytest.raises(CheckpointError, match="could not be written"):
        write_checkpoint(tmp_path / "ours", checkpoint.config, checkpoint.sources, tensors.items(), [tmp_path / "none"])
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_model_is_replaced_but_other_files_are_not(tmp_path: Path) -> None:
    saved("llama", tmp_path / "theirs")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    for shard_bytes in (20_000, 1 << 40):
        write_checkpoint(
            tmp_path / "ours", checkpoint.config, checkpoint.sources, checkpoint.tensors(), shard_bytes=shard_bytes
        )
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "ours" / "notes.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"notes\.md"):
        write_checkpoint(tmp_path / "ours", checkpoint.config, checkpoint.sources, checkpoint.tensors())
