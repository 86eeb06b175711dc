"""Holds the token ids of whole conversations against those of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landrace.certify.certificate import PromptResult
from landrace.checkpoints import Checkpoint
from landrace.errors import LandraceError
from landrace.text import ChatTemplate, Tokenizer, encode_chat
from landrace.text.folder_config import read_json

Asked = Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None]]
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def compare_prompts(checkpoint: Checkpoint, tokenizer: Tokenizer, template: ChatTemplate, asked: Asked) -> PromptResult:
    """Every conversation of `asked` (messages and tools by name), with the answer's beginning, as ids.

    transformers is given the messages in the form that the template reads, and has the special tokens, the template
    and, where there is a tokenizer.json, the vocabulary from the model's own files.
    """
    from jinja2.exceptions import SecurityError

    witness = _witness(checkpoint, tokenizer)
    compared: list[str] = []
    different: list[str] = []
    refused: list[str] = []
    for name, (messages, tools) in asked.items():
        try:
            fitted = template.fit(messages, tools=tools)
            # Before and after ours, for templates that write the time.
            theirs = [_ids(witness, fitted.messages, fitted.tools)]
            ours = encode_chat(tokenizer, messages, tools=tools)
        except LandraceError as error:
            refused.append(f"{name}: {error.message}")
            continue
        except SecurityError as error:  # of their sandbox, in which a template may not change even what is its own
            refused.append(f"{name}: transformers does not write it: {error}")
            continue
        compared.append(name)
        if ours not in [*theirs, _ids(witness, fitted.messages, fitted.tools)]:
            different.append(name)
    return PromptResult(tuple(compared), tuple(different), tuple(refused))


def _ids(witness: Any, messages: Sequence[Any], tools: Sequence[Any] | None) -> list[int] | None:
    """What transformers makes of it; None where it cannot write the conversation. SecurityError where its sandbox stops
    the template."""
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts = render_jinja_template(
            [list(messages)],
            tools=list(tools) if tools is not None else None,
            chat_template=witness.get_chat_template(tools=tools),
            add_generation_prompt=True,
            **witness.special_tokens_map,
        )[0]
    except SecurityError:
        raise
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
    return list(witness(texts[0], add_special_tokens=False)["input_ids"])


def _witness(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Any:
    import transformers

    kind: Any = transformers.PreTrainedTokenizerFast
    if (checkpoint.path / "tokenizer.json").is_file():
        return kind.from_pretrained(str(checkpoint.path))
    template = tokenizer.chat_template
    sources = template.sources if template is not None else {}
    return kind(
        tokenizer_object=tokenizer.backend,
        chat_template=sources if len(sources) > 1 else next(iter(sources.values()), None),
        **_named_tokens(checkpoint),
    )


def _named_tokens(checkpoint: Checkpoint) -> dict[str, str]:
    if checkpoint.format == "gguf":
        metadata = checkpoint.metadata
        ids = {name: metadata.get(f"tokenizer.ggml.{key}") for name, key in _NAMED.items()}
        return {name: metadata["tokenizer.ggml.tokens"][int(index)] for name, index in ids.items() if index is not None}
    config = read_json(checkpoint.path / "tokenizer_config.json")
    values = {name: config.get(name) for name in _NAMED}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if text}
