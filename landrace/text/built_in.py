"""Chat templates for models whose makers describe the format elsewhere: in a paper, a library or the model's own code.

Which one a checkpoint gets is told by its type and by its tokens: a vocabulary without the format's marks gets none.
The templates lie in `templates/` and are written for this project; a checkpoint's own template goes before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landrace.text.chat_template import ChatTemplate

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Format:
    """A template file, the tokens without which it says nothing, and the variables that tell versions apart."""

    file: str
    marks: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


_HARMONY = _Format("harmony", ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"))
_DEEPSEEK_MARKS = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜end▁of▁sentence｜>")
_V3_2 = _Format("deepseek", _DEEPSEEK_MARKS, (("calls", "function_calls"),))
_V4 = _Format("deepseek", _DEEPSEEK_MARKS, (("calls", "tool_calls"),))
_KIMI_K3 = _Format("kimi_k3", ("<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>"))
_ERNIE = _Format("ernie", ("<|begin_of_sentence|>", "<|end_of_sentence|>"))
_BAICHUAN = _Format("baichuan")

_FORMATS: Mapping[str, _Format] = {
    "gpt_oss": _HARMONY,
    "gpt-oss": _HARMONY,
    "deepseek_v32": _V3_2,
    "deepseek32": _V3_2,
    "deepseek_v4": _V4,
    "deepseek4": _V4,
    "kimi_k3": _KIMI_K3,
    "kimi-k3": _KIMI_K3,
    "ernie4_5": _ERNIE,
    "ernie4_5_moe": _ERNIE,
    "ernie4_5-moe": _ERNIE,
    "baichuan": _BAICHUAN,
}
"""By the `model_type` of config.json or the architecture of a GGUF file."""
_TURN_KEYS = {"user_token": "user_token_id", "assistant_token": "assistant_token_id"}
"""Baichuan's chat models name the tokens before each turn in generation_config.json; its base models have none."""


def built_in_template(
    model_type: object,
    tokens: Mapping[str, str],
    generation: Mapping[str, Any],
    id_of: Callable[[str], int | None],
    text_of: Callable[[int], str | None],
) -> ChatTemplate | None:
    """The template for a checkpoint that carries none; None where the type has none or a mark is not in the vocabulary.

    `tokens` are the named special tokens, `generation` is generation_config.json; `id_of` and `text_of` look tokens up.
    """
    form = _FORMATS.get(str(model_type))
    if form is None or any(id_of(mark) is None for mark in form.marks):
        return None
    variables = {**tokens, **dict(form.variables)}
    if form is _BAICHUAN:
        ids = {name: generation.get(key) for name, key in _TURN_KEYS.items()}
        turns = {name: text_of(index) for name, index in ids.items() if isinstance(index, int)}
        variables |= {name: text for name, text in turns.items() if text}
        if not variables.keys() >= _TURN_KEYS.keys():
            return None
    source = (_FOLDER / f"{form.file}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source, tokens=variables, built_in=form.file)
