"""`quantize` by its files: read here, by llama.cpp and by compressed-tensors, with figures against torch's."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from quantise_models import (
    CHATGLM,
    DEEPSEEK_V3,
    DELTA,
    DELTA_EXPERTS,
    ERNIE_MOE,
    GLM4_MOE,
    GLM5_NEXT,
    HUNYUAN_MOE,
    HY3,
    HY_V4,
    INDEXER,
    KDA,
    KIMI_K3,
    LLAMA,
    MINIMAX,
    MINIMAX_M3,
    QWEN3_MOE,
    QWEN4,
    SECTIONS,
    TEXT,
    WriteModel,
    in_pieces,
)
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.gguf_file import read_gguf
from landrace.errors import CheckpointError, DataError, OptionError, UnsupportedError
from landrace.kernels.reference.encoding import encode
from landrace.model import open_model
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.quantize import gguf as writing
from landrace.quantize import quantize as module
from landrace.quantize.gguf import gguf_model
from landrace.quantize.importance import importance_of
from landrace.quantize.quantize import quantize

IDS = list(range(20, 60))


def logits(path: Path, ids: list[int] = IDS) -> torch.Tensor:
    decoder = open_model(str(path), dtype="float32").decoder
    with torch.no_grad():
        return decoder(ForwardBatch.packed([ids]))


def test_a_folder_as_gguf(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    done = quantize(str(llama), "q4_k_m", out)
    kinds = {name: info.dtype for name, info in read_gguf(out).tensors.items()}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "Q4_K"
    assert kinds["blk.1.ffn_down.weight"] == kinds["output.weight"] == "Q6_K"
    assert kinds["output_norm.weight"] == "F32"
    assert set(done.weights) == {"F32", "Q4_K", "Q6_K"} and done.figures is None
    assert done.bytes_after == out.stat().st_size and [file.name for file in tmp_path.iterdir()] == [out.name]
    expected, got = logits(llama), logits(out)
    assert 1e-4 < (got - expected).abs().mean() < 0.2 * expected.std()
    theirs, ours = open_model(str(llama)), open_model(str(out))
    assert ours.tokenizer.encode(TEXT) == theirs.tokenizer.encode(TEXT)
    assert ours.tokenizer.eos_ids == theirs.tokenizer.eos_ids
    talk = [{"role": "user", "content": "Hello"}]
    assert ours.tokenizer.chat_template is not None and theirs.tokenizer.chat_template is not None
    assert ours.tokenizer.chat_template.render(talk) == theirs.tokenizer.chat_template.render(talk)


def test_without_loss(llama: Path, mixture: Path, tmp_path: Path) -> None:
    for folder in (llama, mixture):
        for form in ("bf16", "f32"):
            out = tmp_path / f"{folder.name}-{form}.gguf"
            quantize(str(folder), form, out)
            torch.testing.assert_close(logits(out), logits(folder), atol=1e-5, rtol=1e-5)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
SECTIONS_OF_VL = {
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 8, 8]},
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama, tied": LLAMA | {"tie_word_embeddings": True},
    "llama 3": LLAMA | {"rope_scaling": LLAMA3, "max_position_embeddings": 16384},
    "llama, linear": LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3", "attention_bias": False},
    "chatglm": CHATGLM,
    "hunyuan_vl_text": LLAMA | {"model_type": "hunyuan_vl_text", "rope_scaling": {"type": "xdrope", "alpha": 50.0}},
    "qwen3, yarn": LLAMA | {
        "model_type": "qwen3",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    },
    "qwen3_moe": QWEN3_MOE,
    "qwen2_5_vl_text": LLAMA | SECTIONS_OF_VL | {"model_type": "qwen2_5_vl_text"},
    "qwen3_vl_text": LLAMA | SECTIONS_OF_VL | {"model_type": "qwen3_vl_text", "attention_bias": False},
    "qwen3_vl_moe_text": QWEN3_MOE | SECTIONS_OF_VL | {"model_type": "qwen3_vl_moe_text", "attention_bias": False},
    "minicpm": LLAMA | {"model_type": "minicpm", "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 64},
}  # fmt: skip
V3_YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0,
    "mscale_all_dim": 1.0,
}  # fmt: skip
OTHER_MIXERS: dict[str, dict[str, Any]] = {
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v3, yarn": DEEPSEEK_V3 | {"rope_scaling": V3_YARN},
    # llama.cpp knows a V2-Lite by its layers.
    "deepseek_v2, lite": {key: value for key, value in DEEPSEEK_V3.items() if "group" not in key}
    | {"model_type": "deepseek_v2", "topk_method": "greedy", "norm_topk_prob": False, "q_lora_rank": None}
    | {"num_hidden_layers": 27},
    "qwen3_next": DELTA | DELTA_EXPERTS | {"model_type": "qwen3_next"},
    "qwen3_5_text": DELTA | SECTIONS | {"model_type": "qwen3_5_text"},
    "qwen3_5_moe_text": DELTA | DELTA_EXPERTS | SECTIONS | {"model_type": "qwen3_5_moe_text"},
    # Where no row's budget is left with a few positions, which llama.cpp fills.
    "qwen4_exp_text": DELTA | DELTA_EXPERTS | SECTIONS | QWEN4,
    "glm5_next_text": GLM5_NEXT,
    "kimi_linear": DEEPSEEK_V3 | KDA | {"model_type": "kimi_linear", "q_lora_rank": None},
    "kimi_k3": KIMI_K3,
    "kimi_k3, unbounded": KIMI_K3 | {"activation_situ_linear_beta": None, "norm_topk_prob": False},
    "minimax": LLAMA | MINIMAX,
    "glm_moe_dsa, shared": DEEPSEEK_V3 | INDEXER | {"model_type": "glm_moe_dsa", "n_group": 1, "topk_group": 1},
    "hy_v4": DEEPSEEK_V3 | INDEXER | HY_V4,
    "minimax_m3": LLAMA | MINIMAX_M3,
    "glm4_moe": LLAMA | GLM4_MOE,
    "ernie4_5_moe": LLAMA | ERNIE_MOE,
    "hunyuan_v1_moe": LLAMA | HUNYUAN_MOE,
    "hy_v3": LLAMA | HY3,
    "glm": LLAMA | {"model_type": "glm", "attention_bias": True, "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize("case", MODELS)
def test_folders_in_llama_cpp(case: str, write_model: WriteModel, tmp_path: Path) -> None:
    """It goes on as we do."""
    llama_cpp = pytest.importorskip("llama_cpp")
    out = tmp_path / "tiny.gguf"
    quantize(str(write_model(MODELS[case])), "q8_0", out)
    model = llama_cpp.Llama(
        str(out), n_ctx=64, logits_all=True, n_threads=1, verbose=False, type_k=0, type_v=0, flash_attn=False
    )
    model.eval(IDS)
    theirs = torch.tensor(model.scores[: len(IDS)].copy())
    ours = logits(out)
    assert (ours - theirs).abs().mean() < 0.03 * ours.std()
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.9
    text = "The keys in 2026 aren't\n the"
    own = open_model(str(out)).tokenizer.encode(text)
    assert model.tokenize(text.encode(), add_bos=False) == own


@pytest.mark.parametrize("case", OTHER_MIXERS)
def test_latents_and_states_in_llama_cpp(case: str, write_model: WriteModel, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    folder, out = write_model(OTHER_MIXERS[case]), tmp_path / "tiny.gguf"
    quantize(str(folder), "f32", out)
    expected = logits(folder)
    torch.testing.assert_close(logits(out), expected, atol=1e-5, rtol=1e-5)
    model = llama_cpp.Llama(str(out), n_ctx=64, logits_all=True, n_threads=1, verbose=False, type_k=0, type_v=0)
    model.eval(IDS)
    theirs = torch.tensor(model.scores[: len(IDS)].copy())
    assert (theirs - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("case", ["deepseek_v3", "qwen3_5_text", "qwen4_exp_text", "glm5_next_text"])
def test_latents_and_states_in_fewer_bits(case: str, write_model: WriteModel, text: Path, tmp_path: Path) -> None:
    folder, out = write_model(OTHER_MIXERS[case]), tmp_path / "tiny.gguf"
    quantize(str(folder), "q4_k_m", out, importance=text, text=text)
    expected, got = logits(folder), logits(out)
    assert 1e-4 < (got - expected).abs().mean() < 0.5 * expected.std()


@pytest.mark.parametrize(("case", "name"), [
    ("qwen4_exp_text", "per_layer_token_embd.weight"),
    ("qwen3_next", "blk.1.ffn_up_exps.weight"),
    ("deepseek_v3", "output.weight"),
])  # fmt: skip
def test_great_tensors_go_by_in_pieces(
    case: str, name: str, write_model: WriteModel, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a tensor of the file is a parameter, entry by entry; the bytes are the same."""
    folder = write_model(OTHER_MIXERS[case])
    quantize(str(folder), "q4_k_m", tmp_path / "whole.gguf", importance=text)
    quantize(str(folder), "q8_0", tmp_path / "q8.gguf")
    again = quantize(str(tmp_path / "q8.gguf"), "q8_0", tmp_path / "q8 whole.gguf")
    assert again.weights.keys() >= {"Q8_0", "F32"}
    monkeypatch.setattr(writing, "PIECE", 4096)
    for model in (folder, tmp_path / "q8.gguf"):
        tensor = gguf_model(open_checkpoint(model)).tensors[name]
        sizes = [piece.numel() for piece in tensor.pieces()]
        entry = math.prod(tensor.shape[1:])
        assert len(sizes) > 3 and sum(sizes) == math.prod(tensor.shape) and max(sizes) <= max(4096, entry)
    quantize(str(folder), "q4_k_m", tmp_path / "pieces.gguf", importance=text)
    quantize(str(tmp_path / "q8.gguf"), "q8_0", tmp_path / "q8 pieces.gguf")
    for one, other in (("whole.gguf", "pieces.gguf"), ("q8 whole.gguf", "q8 pieces.gguf")):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()


def test_importance_follows_the_order_of_heads(write_model: WriteModel, text: Path, tmp_path: Path) -> None:
    """llama.cpp has another one than the hub."""
    folder, out = write_model(OTHER_MIXERS["qwen3_5_text"]), tmp_path / "tiny.gguf"
    quantize(str(folder), "f32", out)
    ids = open_model(str(folder)).tokenizer.encode(TEXT)[:256]
    ours, theirs = (open_checkpoint(path) for path in (folder, out))
    hub = importance_of(ours, [ids])
    file = importance_of(theirs, [ids]).by_tensor(theirs.sources)
    written = hub.by_tensor(gguf_model(ours).sources)
    assert written.keys() == file.keys() and "blk.0.ssm_out.weight" in file
    for name, counts in file.items():
        torch.testing.assert_close(written[name], counts, atol=1e-4, rtol=1e-3)


def test_gguf_of_a_gguf(llama: Path, text: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "one.gguf", tmp_path / "two.gguf"
    quantize(str(llama), "q8_0", first)
    done = quantize(str(first), "q5_k_m", second, importance=text)
    assert any("rounded already (Q8_0)" in told for told in done.notices)
    before, after = read_gguf(first), read_gguf(second)
    changed = {key for key in before.metadata if before.metadata[key] != after.metadata[key]}
    assert changed == {"general.file_type"} and after.metadata.keys() == before.metadata.keys()
    assert after.tensors["blk.0.attn_q.weight"].dtype == "Q5_K"
    assert torch.equal(after.tensors["output_norm.weight"].raw(), before.tensors["output_norm.weight"].raw())
    with pytest.raises(UnsupportedError, match="tokenizer cannot be written as a folder's"):
        quantize(str(first), "w4a16", tmp_path / "folder")


def test_importance_is_the_mean_square_of_inputs(llama: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    windows = [IDS, [*IDS[::-1], 5]]
    sums: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            sums[name] = sums.get(name, torch.zeros(())) + inputs[0].detach().double().square().sum((0, 1))

        return hook

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(listen(name.removeprefix("model.")))
    for ids in windows:
        with torch.no_grad():
            model(torch.tensor([ids]))
    found = importance_of(open_checkpoint(llama), windows).of_inputs
    assert found.keys() == {f"{name}.weight" for name in sums}
    n_rows, prior = sum(map(len, windows)), 16
    for name, total in sums.items():
        usual = total.mean() / n_rows
        expected = (total + prior * usual) / (n_rows + prior) / usual
        torch.testing.assert_close(found[f"{name}.weight"], (expected / expected.mean()).float(), atol=1e-4, rtol=1e-3)


def test_importance_of_experts(mixture: Path, text: Path, tmp_path: Path) -> None:
    """Each expert has its own; one that no token went to has none."""
    found = importance_of(open_checkpoint(mixture), [[7]])
    gate, down = (found.of_inputs[f"layers.1.mlp.experts.{name}_proj.weight"] for name in ("gate", "down"))
    assert (found.n_experts, found.n_unseen) == (12, 8)
    seen = (gate.std(1) > 1e-3).nonzero().flatten()
    assert len(seen) == 2 and torch.equal(gate[seen[0]], gate[seen[1]])  # the same row went to both
    assert not torch.equal(down[seen[0]], down[seen[1]])
    assert (down == 1).all(1).sum() == 4
    out = tmp_path / "m.gguf"
    quantize(str(mixture), "q5_0", out, importance=text, text=text)
    opened = open_model(str(mixture), dtype="float32")
    ids = opened.tokenizer.encode(TEXT)
    windows = [ids[at : at + 256] for at in range(0, len(ids) // 256 * 256, 256)]
    counts = importance_of(opened.checkpoint, windows).of_inputs["layers.1.mlp.experts.up_proj.weight"]
    stored = read_gguf(out).tensors["blk.1.ffn_up_exps.weight"]
    values = opened.decoder.get_parameter("layers.1.mlp.experts.up_proj.weight")
    expected = torch.cat([encode(one, "Q5_0", own) for one, own in zip(values, counts, strict=True)])
    assert (stored.raw() == expected).float().mean() > 0.99


@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "deepseek_v3", "qwen3_5_text"])
def test_importance_holds_one_layer_at_a_time(
    case: str, write_model: WriteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(write_model((MODELS | OTHER_MIXERS)[case]))
    held: list[dict[str, int]] = []
    load = Decoder.load

    def loading(decoder: Decoder, *args: Any) -> Decoder:
        load(decoder, *args)
        held.append({name: one.nbytes for name, one in decoder.named_parameters() if not one.is_meta})
        return decoder

    monkeypatch.setattr(Decoder, "load", loading)
    importance_of(checkpoint, [IDS, IDS[::-1]])
    for names in held:
        assert len({".".join(name.split(".")[:2]) for name in names}) <= 1
    loaded = {name for names in held for name in names}
    assert loaded == checkpoint.sources.keys() - {"lm_head.weight"}


def test_mxfp4_for_experts(mixture: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    quantize(str(mixture), "mxfp4_moe", out)
    kinds = {name: info.dtype for name, info in read_gguf(out).tensors.items()}
    assert kinds["blk.0.ffn_down_exps.weight"] == "MXFP4" and kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_gate_inp.weight"] == "F32"
    expected = logits(mixture)
    assert (logits(out) - expected).abs().mean() < 0.2 * expected.std()


@pytest.mark.parametrize("form", ["w4a16", "w4a16-g32", "fp8_dynamic"])
def test_folders_that_others_read(form: str, llama: Path, mixture: Path, text: Path, tmp_path: Path) -> None:
    for model in (llama, mixture):
        folder = tmp_path / model.name
        done = quantize(str(model), form, folder, importance=text)
        expected, got = logits(model), logits(folder)
        assert 1e-4 < (got - expected).abs().mean() < 0.3 * expected.std()
        stored = load_file(folder / "model.safetensors")
        kept = {name for name in stored if stored[name].dtype == torch.bfloat16 and not name.endswith("_scale")}
        assert all(any(part in name for part in ("norm", "embed", "lm_head", "gate.weight")) for name in kept)
        settings = json.loads((folder / "config.json").read_text())["quantization_config"]
        size = settings["config_groups"]["group_0"]["weights"].get("group_size")
        assert size == {"w4a16": 128 if model is llama else 64, "w4a16-g32": 32}.get(form)
        routers = ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
        assert settings["ignore"] == (["lm_head"] if model is llama else routers)
        assert (folder / "tokenizer.json").is_file()
        assert sum(done.weights.values()) == sum(p.numel() for p in open_model(str(model)).decoder.parameters())


@pytest.mark.parametrize("form", ["w4a16", "fp8_dynamic"])
def test_the_library_reads_the_same(form: str, llama: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    quantize(str(llama), form, tmp_path / "q", importance=text)
    settings = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    config = QuantizationConfig.model_validate(settings)
    library = BaseCompressor.get_value_from_registry(config.format)
    stored = load_file(tmp_path / "q" / "model.safetensors")
    module_name = "model.layers.1.mlp.down_proj."
    parts = {name.removeprefix(module_name): t for name, t in stored.items() if name.startswith(module_name)}
    theirs = library.decompress(parts, config.config_groups["group_0"])["weight"].float()
    ours = open_checkpoint(tmp_path / "q").stored()["layers.1.mlp.down_proj.weight"].values()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=5e-3)


def test_figures_are_those_of_torch(llama: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.gguf"
    figures = quantize(str(llama), "q4_0", out, text=text).figures
    assert figures is not None
    ids = open_model(str(llama)).tokenizer.encode(TEXT)
    windows = [ids[at : at + 256] for at in range(0, len(ids) // 256 * 256, 256)]
    assert figures.tokens == len(windows) * 255
    told = []
    for path in (llama, out):
        said = torch.cat([logits(path, window)[:-1].double() for window in windows])
        targets = torch.tensor([token for window in windows for token in window[1:]])
        told.append((math.exp(cross_entropy(said, targets)), said.argmax(-1)))
    assert figures.reference == pytest.approx(told[0][0], rel=5e-3)
    assert figures.served == pytest.approx(told[1][0], rel=5e-3)
    assert figures.same_choice == pytest.approx((told[0][1] == told[1][1]).double().mean().item(), abs=0.05)


def test_the_end_of_the_text_is_kept_for_the_figures(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 3, encoding="utf-8")
    heard: list[list[tuple[int, ...]]] = []
    monkeypatch.setattr(
        module, "importance_of", lambda c, windows, *_: (heard.append(windows), importance_of(c, windows))[1]
    )
    done = quantize(str(llama), "q8_0", tmp_path / "tiny.gguf", importance=long)
    ids = open_model(str(llama)).tokenizer.encode(TEXT * 3)
    n_windows = len(ids) // 256
    assert done.figures is not None and done.figures.tokens == n_windows // 5 * 255
    assert len(heard[0]) == n_windows - n_windows // 5 and heard[0][0] == tuple(ids[:256])


def test_what_is_refused(llama: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.gguf"
    there.write_text("something")
    with pytest.raises(OptionError, match="no form 'q9'") as caught:
        quantize(str(llama), "q9", tmp_path / "a.gguf")
    assert caught.value.hint is not None and "q4_k_m" in caught.value.hint and "fp8_dynamic" in caught.value.hint
    with pytest.raises(OptionError, match="exists already"):
        quantize(str(llama), "q8_0", there)
    assert there.read_text() == "something"
    with pytest.raises(OptionError, match=r"name ends in \.gguf"):
        quantize(str(llama), "q8_0", tmp_path / "folder")
    with pytest.raises(OptionError, match="a folder, not"):
        quantize(str(llama), "w4a16", tmp_path / "a.gguf")
    for content, message in ((None, "could not be read"), (b"\xff\xfe\x00", "not text in UTF-8"), (b"Hi", "tokens")):
        file = tmp_path / "text"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            quantize(str(llama), "q8_0", tmp_path / "a.gguf", text=file)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["text", "there.gguf"]


@pytest.mark.parametrize("form", ["q4_k_m", "w4a16"])
def test_a_full_disk_leaves_nothing(form: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    where = "landrace.quantize.gguf.write_encoded_gguf" if form == "q4_k_m" else "landrace.checkpoints.write.save_file"
    monkeypatch.setattr(where, full)
    with pytest.raises(CheckpointError, match="No space left") as caught:
        quantize(str(llama), form, tmp_path / ("a.gguf" if form == "q4_k_m" else "a"))
    assert caught.value.hint == "Free some space on the disk."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["q4_k_m", "w4a16", "fp8_dynamic"])
def test_weights_that_no_block_holds(form: str, write_model: WriteModel, tmp_path: Path) -> None:
    folder = write_model(LLAMA | {"num_hidden_layers": 1})
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_?(proj)?\.weight"):
        quantize(str(folder), form, tmp_path / ("a.gguf" if form == "q4_k_m" else "a"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["tokenizer.model", "tokenizer.json"])
def test_a_vocabulary_of_pieces(form: str, write_model: WriteModel, tmp_path: Path) -> None:
    """As SentencePiece writes it, or as tokenizers does; llama.cpp cuts as we do."""
    llama_cpp = pytest.importorskip("llama_cpp")
    folder, out = tmp_path / "pieces", tmp_path / "tiny.gguf"
    in_pieces(write_model(LLAMA | {"vocab_size": 400, "eos_token_id": 2}), folder, form)
    quantize(str(folder), "f32", out)
    ours, again = open_model(str(folder)), open_model(str(out))
    theirs = llama_cpp.Llama(str(out), n_ctx=64, logits_all=True, n_threads=1, verbose=False, type_k=0, type_v=0)
    for text in (TEXT, "The keys\n\tare   in 2026 😀", "  two", "the<s>the</s> keys", "ﬁ ½ x1y22"):
        ids = ours.tokenizer.encode(text)
        assert again.tokenizer.encode(text) == ids and again.tokenizer.decode(ids) == ours.tokenizer.decode(ids)
        assert theirs.tokenize(text.encode(), add_bos=True, special=True) == ids
    assert again.tokenizer.eos_ids == ours.tokenizer.eos_ids
    theirs.eval(IDS)
    expected = logits(folder)
    assert (torch.tensor(theirs.scores[: len(IDS)]) - expected).abs().max() < 1e-3 * expected.abs().max()


def test_a_tokenizer_that_gguf_has_no_name_for(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["pre_tokenizer"]["pretokenizers"][0] = {"type": "Punctuation", "behavior": "Isolated"}
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(UnsupportedError, match="no name there"):
        quantize(str(folder), "q8_0", tmp_path / "a.gguf")
