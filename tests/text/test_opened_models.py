"""A model opened by its folder or its GGUF file writes the prompts of transformers, and the certificate says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from doors import Doors, marks_of

from landrace.certify.conversations import PROMPTS
from landrace.certify.prompts import compare_prompts
from landrace.checkpoints.gguf_write import write_gguf
from landrace.checkpoints.write import write_checkpoint
from landrace.model import open_model
from landrace.models.declared import shapes_of
from landrace.models.families import read_config
from landrace.text import ChatTemplate, encode_chat

USER = {"role": "user", "content": "Xin chào!"}
NAMES = ["Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "deepseek-ai-DeepSeek-V3.2", "GLM-4.6"]


def config(vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }


def write_both(doors: Doors, folder: Path, source: str) -> tuple[Path, Path]:
    """A tiny model with this template as a folder, and as a GGUF file."""
    marks = marks_of(source)
    extras = doors.folder(folder / "extras", source, marks)
    metadata = doors.metadata(source, marks)
    facts = config(len(metadata["tokenizer.ggml.tokens"]))
    family = read_config(facts)
    shapes = shapes_of(family.spec)
    tensors = {name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape) for name, shape in shapes.items()}
    write_checkpoint(folder / "model", facts, family.sources, tensors.items(), extras.iterdir())
    numbers = {
        "context_length": 4096,
        "embedding_length": 32,
        "feed_forward_length": 32,
        "block_count": 1,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16,
    }
    named = {
        "token_embd.weight": "embed_tokens.weight",
        "output_norm.weight": "norm.weight",
        "blk.0.attn_q.weight": "layers.0.self_attn.q_proj.weight",
        "blk.0.attn_k.weight": "layers.0.self_attn.k_proj.weight",
        "blk.0.attn_v.weight": "layers.0.self_attn.v_proj.weight",
        "blk.0.attn_output.weight": "layers.0.self_attn.o_proj.weight",
        "blk.0.attn_norm.weight": "layers.0.input_layernorm.weight",
        "blk.0.ffn_norm.weight": "layers.0.post_attention_layernorm.weight",
        "blk.0.ffn_gate.weight": "layers.0.mlp.gate_proj.weight",
        "blk.0.ffn_up.weight": "layers.0.mlp.up_proj.weight",
        "blk.0.ffn_down.weight": "layers.0.mlp.down_proj.weight",
    }
    stored = {ours: next(t for name, t in tensors.items() if name.endswith(hub)) for ours, hub in named.items()}
    write_gguf(
        folder / "model.gguf",
        metadata | {f"llama.{key}": value for key, value in numbers.items()},
        {name: (tensor, "F32") for name, tensor in stored.items()},
    )
    return folder / "model", folder / "model.gguf"


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_and_a_file_give_the_ids_of_transformers(shared: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    source = (shared / "data" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    doors = Doors(shared / "data" / "tokenizers" / "minimind")
    for path in write_both(doors, tmp_path, source):
        model = open_model(str(path), home=tmp_path / "home")
        template = model.tokenizer.chat_template
        assert template is not None
        result = compare_prompts(model.checkpoint, model.tokenizer, template, PROMPTS)
        assert result.passed, result
        assert len(result.compared) >= 4
        if "bos_token" in source:
            # The certificate is not deaf: a template that is not handed its tokens gives other ids.
            model.tokenizer.chat_template = ChatTemplate(template.sources)
            assert not compare_prompts(model.checkpoint, model.tokenizer, model.tokenizer.chat_template, PROMPTS).passed


def test_named_tokens_reach_the_template(shared: Path, tmp_path: Path) -> None:
    doors = Doors(shared / "data" / "tokenizers" / "minimind")
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ image_token }}"
    folder, file = write_both(doors, tmp_path, source)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "image_token": "<|im_start|>"}))
    for path, image in ((folder, "<|im_start|>"), (file, "")):
        tokenizer = open_model(str(path), home=tmp_path / "home").tokenizer
        text = tokenizer.decode(encode_chat(tokenizer, [USER]), skip_special=False)
        assert text == f"<s>Xin chào!</s><pad><unk>{image}"
