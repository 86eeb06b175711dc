"""The models of the bench, tiny: both engines open every file, cut text alike and agree on the logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from landrace.bench.llama_cpp_peer import LlamaCpp
from landrace.checkpoints import open_checkpoint
from landrace.errors import CheckpointError, OptionError, UnsupportedError
from landrace.model import open_model, open_tokenizer
from landrace.models.batch import ForwardBatch
from landrace.text import encode_chat

llama_cpp = pytest.importorskip("llama_cpp")

import make_models  # noqa: E402
import published_shapes  # noqa: E402
import vocabularies  # noqa: E402

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
}
EXPERTS = {**SIZES, "intermediate_size": 256, "moe_intermediate_size": 256, "num_experts": 16}
# Rows that are no whole blocks of 256, as gpt-oss has them: the quantiser takes types with smaller blocks there.
ODD_ROWS = {**SIZES, "hidden_size": 288, "intermediate_size": 288, "num_local_experts": 16, "sliding_window": 8}
LATENTS = {**SIZES, "num_key_value_heads": 4, "q_lora_rank": 256, "kv_lora_rank": 256, "moe_intermediate_size": 256,
           "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 16}  # fmt: skip
STATES = {**SIZES, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64,
          "linear_value_head_dim": 64}  # fmt: skip
NEXT = {**STATES, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256, "num_experts": 16}


def tiny(name: str, sizes: dict[str, int], *kinds: str) -> published_shapes.Shape:
    shape = published_shapes.SHAPES[name]
    return replace(shape, name=name, config={**shape.config, **sizes}, kinds=("BF16", *kinds))


SHAPE = tiny("qwen3-0.6b", SIZES, *published_shapes.QUANTISED)
MIXTURES = (tiny("qwen3-30b-a3b", EXPERTS, "Q4_K_M"), tiny("gpt-oss-20b", ODD_ROWS, "Q4_K_M"))
OTHERS = (
    tiny("deepseek-v2-lite", LATENTS, "Q4_K_M"), tiny("qwen3-next", NEXT, "Q4_K_M"),
    tiny("qwen3.5-0.8b", {**STATES, "linear_num_value_heads": 2}, "Q4_K_M"),
)  # fmt: skip
SHAPES = (SHAPE, *MIXTURES, *OTHERS)
DENSE, MOE, GPT_OSS = (shape.name for shape in SHAPES[:3])
IDS = list(range(60, 92))
TEXTS = ("The keys are in the blue box, number 1234.", "Où est la clé ?\n\n  Ключ — здесь", "钥匙在哪里？ 👋", "")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    for shape in SHAPES:
        make_models.write_random_models(out, shape, vocabularies.generated(shape.vocab))
    return out


def logits(path: Path) -> torch.Tensor:
    decoder = open_model(str(path), dtype="float32", device=torch.device("cpu")).decoder
    with torch.no_grad():
        return decoder(ForwardBatch.packed([IDS]))


# llama.cpp keeps the inputs of a product in the type of its weights, or in 8 bits where these are quantised.
@pytest.mark.parametrize(
    ("file", "bound"),
    [
        (f"{DENSE}.BF16", 0.02),
        (f"{DENSE}.Q4_0", 0.05),
        (f"{DENSE}.Q8_0", 0.05),
        (f"{DENSE}.Q4_K_M", 0.05),
        (f"{MOE}.BF16", 0.02),
        (f"{MOE}.Q4_K_M", 0.05),
        (f"{GPT_OSS}.BF16", 0.02),
        (f"{GPT_OSS}.Q4_K_M", 0.05),
        *((f"{shape.name}.BF16", 0.02) for shape in OTHERS),
        *((f"{shape.name}.Q4_K_M", 0.05) for shape in OTHERS),
    ],
)
def test_both_engines_agree(models: Path, file: str, bound: float) -> None:
    found = make_models.agreement(models / f"{file}.gguf", IDS)
    assert found.relative < bound
    assert found.same_choice > 0.8


@pytest.mark.parametrize(
    ("file", "types"),
    [
        (f"{DENSE}.BF16", {"BF16"}),
        (f"{DENSE}.Q4_0", {"Q4_0", "Q6_K"}),
        (f"{DENSE}.Q8_0", {"Q8_0"}),
        (f"{DENSE}.Q4_K_M", {"Q4_K", "Q6_K"}),
        (f"{MOE}.BF16", {"BF16"}),
        (f"{MOE}.Q4_K_M", {"Q4_K", "Q6_K"}),
        (f"{GPT_OSS}.Q4_K_M", {"Q4_K", "Q5_0", "Q8_0"}),
    ],
)
def test_a_file_holds_what_its_name_says(models: Path, file: str, types: set[str]) -> None:
    infos = open_checkpoint(models / f"{file}.gguf").tensor_infos
    left = {name for name, info in infos.items() if len(info.shape) == 1 or "ffn_gate_inp" in name or ".bias" in name}
    assert {info.dtype for name, info in infos.items() if name not in left} == types
    assert {infos[name].dtype for name in left} == {"F32"}


@pytest.mark.parametrize("name", [shape.name for shape in SHAPES])
def test_the_folder_holds_the_same_weights_and_they_are_alive(models: Path, name: str) -> None:
    found = logits(models / name)
    # Folders hold the norms around 0 and the decays of delta nets in another form, rounded.
    bound = 0.01 if "3.5" in name or "next" in name else 0.0
    assert (found - logits(models / f"{name}.BF16.gguf")).abs().max() <= bound
    assert found.isfinite().all() and found.std() > 0.05
    # Another token, another answer: the choice is not one token's for every prompt.
    assert len(set(found.argmax(-1).tolist())) > len(IDS) // 2


@pytest.mark.parametrize("name", [shape.name for shape in SHAPES])
def test_transformers_reads_the_folder(models: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([IDS])).logits[0]
    assert (theirs - logits(models / name)).abs().max() < 1e-4
    tokenizer = transformers.AutoTokenizer.from_pretrained(models / name)
    ours = open_tokenizer(open_checkpoint(models / name))
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == ours.encode(text)


@pytest.mark.parametrize("name", [shape.name for shape in (SHAPE, *OTHERS)])
def test_a_peer_goes_back_to_the_prompts(models: Path, name: str) -> None:
    """States cannot be taken back token by token, so they are put back."""
    peer = LlamaCpp(models / f"{name}.BF16.gguf", threads=1)
    prompts = [IDS, IDS[::-1]]
    peer.begin_decode(prompts, room=8)
    found = []
    for _ in range(3):
        peer.rewind()
        found.append(peer.decode(4))
    for stream, prompt in enumerate(prompts):
        token = peer.first_token(prompt)
        assert peer.first_token_again(prompt) == token
        assert found[0][0][stream] == peer.first_token([*prompt, token])
    peer.close()
    assert found[0] == found[1] == found[2]


def test_both_engines_cut_text_alike(models: Path) -> None:
    folder = open_tokenizer(open_checkpoint(models / DENSE))
    ours = open_tokenizer(open_checkpoint(models / f"{DENSE}.Q8_0.gguf"))
    theirs: Any = llama_cpp.Llama(str(models / f"{DENSE}.Q8_0.gguf"), vocab_only=True, verbose=False)
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs.tokenize(text.encode(), add_bos=False) == ids == folder.encode(text)
        assert ours.decode(ids) == text
    # The one lists rows that no token has, the other says what a second text would be.
    assert replace(ours.conventions, unused_ids=frozenset()) == replace(folder.conventions, second_type=0)
    assert ours.token_text(theirs.token_eos()) == "<|im_end|>"
    messages = [{"role": "user", "content": "Hello"}]
    assert encode_chat(ours, messages) == encode_chat(folder, messages)


def test_a_vocabulary_can_be_taken_from_a_file_or_a_folder(models: Path) -> None:
    bigger = vocabularies.padded(vocabularies.generated(SHAPE.vocab), SHAPE.vocab + 40)
    assert vocabularies.taken(models / f"{DENSE}.Q4_0.gguf", SHAPE.vocab + 40) == bigger
    from_folder = vocabularies.taken(models / DENSE, SHAPE.vocab + 40)
    kinds = "tokenizer.ggml.token_type"  # tokenizer.json does not tell padding from other tokens.
    assert {**from_folder, kinds: bigger[kinds]} == bigger
    with pytest.raises(OptionError, match="more than"):
        vocabularies.taken(models / DENSE, SHAPE.vocab - 1)
    with pytest.raises(UnsupportedError, match=r"tokenizer\.json"):
        vocabularies.taken(models, SHAPE.vocab)
    with pytest.raises(OptionError, match="too small"):
        vocabularies.generated(200)


def test_a_file_that_llama_cpp_cannot_read_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(CheckpointError, match=r"did not write good\.gguf"):
        make_models.quantise(tmp_path / "bad.gguf", tmp_path / "good.gguf", "Q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
