"""What a checkpoint says of its vectors: the files that sentence-transformers writes beside a model, or GGUF metadata.

`modules.json` names what a text passes through: a transformer, a pooling, then linear layers and a normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from landrace.checkpoints.bounded import read_json, read_json_list
from landrace.embedding.dense import Dense
from landrace.embedding.dense_files import MAX_BYTES, read_dense
from landrace.embedding.facts import Modules, PoolingFacts
from landrace.engine.readout import PoolKind
from landrace.errors import CheckpointError, UnsupportedError

MAX_TOKENIZER_BYTES = 1 << 26
_MODES: Mapping[str, PoolKind] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
"""In the order in which several are put end to end."""
_SWITCHES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older files say the same."""
_SIZES = ("word_embedding_dimension", "embedding_dimension")
_GGUF_KINDS: Mapping[int, PoolKind] = {1: "mean", 2: "cls", 3: "last"}
_GGUF_RANK = 4


def gguf_modules(path: Path, metadata: Mapping[str, Any]) -> Modules:
    """Of a GGUF file with this metadata. UnsupportedError for a pooling that is not known here."""
    return Modules(path, _of_gguf(metadata))


def read_modules(path: Path) -> Modules:
    """Of a model folder.

    CheckpointError for files that contradict themselves, UnsupportedError for a module that is not known here.
    """
    own = _object(path / "config_sentence_transformers.json")
    prompts = own.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CheckpointError(f"The prompts in {path / 'config_sentence_transformers.json'} are not texts by name.")
    prompts = {name: text or "" for name, text in prompts.items()}
    default = own.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(f"The checkpoint's default prompt {default!r} is none of its prompts.")
    facts: dict[str, Any] = {"prompts": prompts, "default_prompt": default, "similarity": own.get("similarity_fn_name")}
    if not (path / "modules.json").is_file():
        return Modules(path, **facts, **_lengths(path))
    transformer, pooling, after = path, None, list[Dense | None]()
    for entry in read_json_list(path / "modules.json", MAX_BYTES):
        kind, folder = _module(entry, path)
        match kind:
            case "Transformer":
                transformer = folder
            case "Pooling":
                pooling = _pooling(folder)
            case "Dense":
                after.append(read_dense(folder))
            case "Normalize":
                after.append(None)
            case "Dropout":
                pass  # training only
            case _:
                raise UnsupportedError(f"The checkpoint's modules.json has a {kind}, which is not implemented.")
    return Modules(transformer, pooling, tuple(after), True, **facts, **_lengths(transformer))


def _module(entry: Any, path: Path) -> tuple[str, Path]:
    """What a module is, and its folder, which may not lie outside."""
    kind, folder = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(folder, str):
        raise CheckpointError(f"{path / 'modules.json'} has a module without a type or a path.")
    parts = PurePosixPath(folder)
    if parts.is_absolute() or ".." in parts.parts:
        raise CheckpointError(f"{path / 'modules.json'} names the folder {folder!r}, which is not inside it.")
    return kind.rpartition(".")[2], path / folder


def _pooling(folder: Path) -> PoolingFacts:
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: it says how rows become one vector.", hint="Fetch the model again.")
    config = read_json(file, MAX_BYTES)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _SWITCHES.items() if config.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    unknown = sorted(config.keys() - {*_SWITCHES, *_SIZES, "pooling_mode", "include_prompt"})
    if unknown:
        raise UnsupportedError(f"{file} sets {unknown[0]}, which is not implemented.")
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise CheckpointError(f"{file} sets pooling_mode to something that is no name and no list of names.")
    other = [mode for mode in modes if mode not in _MODES]
    if other:
        raise UnsupportedError(f"{file} pools by {other[0]!r}, which is not implemented.")
    kinds = tuple(_MODES[mode] for mode in modes)
    return PoolingFacts(kinds, f"the checkpoint's {folder.name}", config.get("include_prompt", True) is not False)


def _of_gguf(metadata: Mapping[str, Any]) -> PoolingFacts | None:
    """llama.cpp's `*.pooling_type`; None where the file leaves it open."""
    key = f"{metadata.get('general.architecture')}.pooling_type"
    value = metadata.get(key)
    if value in (None, 0):
        return None
    if value == _GGUF_RANK:
        raise UnsupportedError(f"The file's {key} says that it ranks documents and makes no vectors.")
    kind = _GGUF_KINDS.get(int(value))
    if kind is None:
        raise UnsupportedError(f"The file's {key} is {value}, which is not known.")
    return PoolingFacts((kind,), f"the file's {key}")


def _lengths(folder: Path) -> dict[str, Any]:
    """What the transformer's folder says of the texts it takes."""
    config = _object(folder / "sentence_bert_config.json")
    tokenizer = _object(folder / "tokenizer_config.json", MAX_TOKENIZER_BYTES)
    stated = config.get("max_seq_length", tokenizer.get("model_max_length"))
    known = isinstance(stated, int) and not isinstance(stated, bool) and 0 < stated < 1 << 31
    return {"max_length": stated if known else None, "lower_case": config.get("do_lower_case") is True}


def _object(file: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    return read_json(file, limit) if file.is_file() else {}
