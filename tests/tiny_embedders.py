"""Tiny random embedders and rerankers as their makers publish them: model folders with sentence-transformers' files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from byte_vocabulary import byte_vocabulary
from tokenizers import AddedToken, models, pre_tokenizers, processors

from landrace.text.pretokenizers import CUTS, build_normalizer, build_pre_tokenizer

END = "<|endoftext|>"
MARKS = (END, "<|im_start|>", "<|im_end|>")
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
    "tie_word_embeddings": True,
}
QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
TEXTS = (
    "How do I change my booking?",
    "Changing a booking is free until the day before.",
    "Die Katze schläft auf dem Sofa, wie jeden Tag, und träumt von Mäusen.",
    "猫",
    "x" * 200,
    "A text that spells out <|endoftext|> and <|im_end|>.",
)


def vocabulary(*, ends: bool = True) -> tokenizers.Tokenizer:
    """A token a byte, and "yes" and "no"; `ends`: a whole text ends with END."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["ye", "yes", "no"]
    model = models.BPE(
        vocab={text: index for index, text in enumerate([*alphabet, *words])},
        merges=[("y", "e"), ("ye", "s"), ("n", "o")],
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer, backend.decoder = build_normalizer(CUTS["qwen2"]), byte_vocabulary(()).decoder
    backend.pre_tokenizer = build_pre_tokenizer(CUTS["qwen2"])
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    if ends:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, backend.token_to_id(END))]
        )
    return backend


def write_decoder(folder: Path, *, ends: bool = True, kind: str = "Qwen3Model", **config: Any) -> Path:
    """A Qwen3 of random weights, by transformers."""
    import transformers

    backend = vocabulary(ends=ends)
    made = transformers.Qwen3Config(**{**SIZES, "vocab_size": backend.get_vocab_size(), **config})
    torch.manual_seed(0)
    model = getattr(transformers, kind)(made)
    model.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": END, "pad_token": END, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def with_modules(
    origin: Path,
    folder: Path,
    pooling: Mapping[str, Any],
    *,
    dense: Sequence[Mapping[str, Any]] = (),
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    default: str | None = None,
    max_length: int | None = None,
    lower_case: bool = False,
    inside: str = "",
) -> Path:
    """A copy of a model folder with sentence-transformers' files; `inside`: the folder of the transformer itself."""
    shutil.copytree(origin, folder / inside)
    entries: list[tuple[str, str]] = [("Transformer", inside), ("Pooling", "1_Pooling")]
    generator = torch.Generator().manual_seed(5)
    for number, one in enumerate(dense, start=2):
        name = f"{number}_Dense"
        entries.append(("Dense", name))
        _write(folder / name / "config.json", one)
        weights = {"linear.weight": torch.randn(one["out_features"], one["in_features"], generator=generator) * 0.2}
        if one.get("bias", True):
            weights["linear.bias"] = torch.randn(one["out_features"], generator=generator)
        from safetensors.torch import save_file

        save_file(weights, folder / name / "model.safetensors")
    if normalize:
        entries.append(("Normalize", f"{2 + len(dense)}_Normalize"))
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(entries)
    ]
    _write(folder / "modules.json", listed)
    _write(folder / "1_Pooling" / "config.json", pooling)
    bert: dict[str, Any] = {"do_lower_case": lower_case}
    if max_length is not None:
        bert["max_seq_length"] = max_length
    _write(folder / inside / "sentence_bert_config.json", bert)
    if prompts is not None:
        own = {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": "cosine"}
        _write(folder / "config_sentence_transformers.json", own)
    return folder


def modes(*names: str, **more: Any) -> dict[str, Any]:
    """A pooling's config.json as most files have it."""
    known = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 64, **{f"pooling_mode_{name}": name in names for name in known}, **more}


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e f g h i j k l m n o p q r s t u v w x y z ##a ##e ##i ##n ##s ##t ##g "
    "##ing how do change my booking is free until the day before cat cats , ! : spelled out"
)


def write_encoder(folder: Path, *, kind: str = "BertModel", **config: Any) -> Path:
    """A BERT of random weights, by transformers, with a small WordPiece vocabulary."""
    import transformers
    from tokenizers import decoders, normalizers

    vocab = {word: index for index, word in enumerate(WORDS.split())}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in special])
    backend.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    sizes = {
        name: SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "initializer_range")
    }
    made = transformers.BertConfig(
        **{**sizes, "vocab_size": len(vocab), "num_attention_heads": 4, "max_position_embeddings": 128, **config}
    )
    torch.manual_seed(0)
    getattr(transformers, kind)(made).save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    named = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    settings = {**named, "tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
