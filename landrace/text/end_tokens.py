"""Which tokens end an answer.

Every source that a model ships is honoured, because each alone is known to be incomplete: the `eos_token_id` of
generation_config.json and config.json (one id or several), the tokenizer's `eos_token`, and in GGUF files the EOS,
end-of-turn and end-of-message ids. To these comes the token with which the model's own chat template ends a turn:
the template writes a conversation that ends with an answer, and the control token right after that answer, if there is
one, is what the model was taught to say when it is done. Where text stands between that token and others, they are a
frame around the answer (Kimi-K3's), and the last one ends the turn. No token is recognised by its name, so a mark that
merely parts one message from the next (`<|end|>` in gpt-oss, `<|user|>` in GLM) is not taken for an end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from landrace.errors import CheckpointError, RequestError
from landrace.text.chat_template import ChatTemplate
from landrace.text.template_process import TemplateStoppedError

_ANSWER = "Landrace-7f3a"
_PROBE = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _ANSWER}]


def ids_in_config(config: Mapping[str, Any]) -> frozenset[int]:
    """The ids under `eos_token_id`, also where a multimodal config keeps them in `text_config`."""
    found: set[int] = set()
    for part in (config, config.get("text_config")):
        value = part.get("eos_token_id") if isinstance(part, Mapping) else None
        values = value if isinstance(value, list) else [value]
        found.update(item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0)
    return frozenset(found)


def turn_end_id(template: ChatTemplate, control_tokens: Mapping[str, int]) -> int | None:
    """The control token that ends an answer in the template's own writing; None where none follows it.

    A template that cannot write this plain conversation teaches nothing here; rendering it for a real request says why.
    One that goes beyond its bounds even on this raises TemplateStoppedError: it would do so on every request.
    """
    try:
        text = template.render(_PROBE, add_generation_prompt=False)
    except TemplateStoppedError:
        raise
    except (RequestError, CheckpointError):
        return None
    rest = text.rpartition(_ANSWER)[2].strip() if _ANSWER in text else ""
    tokens = sorted(filter(None, control_tokens), key=len, reverse=True)
    first = next((token for token in tokens if rest.startswith(token)), None)
    last = next((token for token in tokens if rest.endswith(token)), None)
    framed = first is not None and bool(re.sub("|".join(map(re.escape, tokens)), "", rest).strip())
    end = last if framed else first
    return None if end is None else control_tokens[end]
