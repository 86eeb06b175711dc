"""A model in a folder that recites: every token is followed by one other, whatever came before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from byte_vocabulary import byte_vocabulary
from tokenizers import AddedToken

from landrace.checkpoints import write_checkpoint
from landrace.models.declared import shapes_of
from landrace.models.families import read_config

END = "<|im_end|>"
THINKING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}:"
    "{% if m.reasoning_content and loop.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A template of Qwen3's kind."""
ENDLESS = [[":", "<think>", " Hm", " So", " Hm"], ["\n", "</think>"], ["\n", "Sure"], ["Sure", "."]]
"""Thinks for ever, until somebody ends it."""


def write_reciting_model(
    folder: Path, extras: Path, chains: Sequence[Sequence[str]], template: str, *, mtp: bool = False
) -> Path:
    """`chains` of pieces, each of which leads to the next; what leads nowhere leads to the end. A piece of several
    characters is a token of its own. `extras`: a new folder for the tokenizer's files. `mtp`: with a layer that guesses
    the token after the next one, and recites the same."""
    backend = byte_vocabulary()
    pieces = dict.fromkeys(piece for chain in chains for piece in chain)
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in pieces if len(piece) > 1 and piece != END])
    extras.mkdir(parents=True)
    backend.save(str(extras / "tokenizer.json"))
    settings = {"eos_token": END, "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (extras / "tokenizer_config.json").write_text(json.dumps(settings))

    def number(piece: str) -> int:
        (index,) = backend.encode(piece).ids
        return int(index)

    follows = {number(a): number(b) for chain in chains for a, b in pairwise(chain)}
    _write(folder, extras, backend.get_vocab_size(), number(END), follows, mtp)
    return folder


def _write(folder: Path, extras: Path, n_tokens: int, end: int, follows: Mapping[int, int], mtp: bool) -> None:
    size = -(-n_tokens // 16) * 16
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": size,
        "hidden_size": size,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        **({"num_nextn_predict_layers": 1} if mtp else {}),
    }
    family = read_config(config, mtp=mtp)
    tensors = {name: torch.zeros(shape) for name, shape in shapes_of(family.spec).items()}
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensor.fill_(1)
        elif "embed" in name:
            tensor.copy_(torch.eye(size))
        elif name == "mtp.proj.weight":
            tensor[:, :size] = torch.eye(size)  # of the token, and nothing of what the layers said before it
        elif "head" in name:
            for token in range(size):
                tensor[follows.get(token, end), token] = 1
    write_checkpoint(folder, config, family.sources, list(tensors.items()), extras.iterdir())
