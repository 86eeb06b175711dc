"""`show --chat`: a conversation as the model reads it, text and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.store import ModelStore, default_home
from landrace.cli.chat.files import read_chat
from landrace.cli.console import out, print_json, styled
from landrace.model import open_tokenizer
from landrace.text import Tokenizer, chat_prompt


def show_prompt(name: str, file: Path, *, as_json: bool) -> None:
    """Prints the prompt that the model's template writes of the conversation in `file`, and its tokens, one a line."""
    asked = read_chat(file)
    tokenizer = open_tokenizer(open_checkpoint(ModelStore(default_home()).show(name).model.path))
    variables = asked.pop("chat_template_kwargs", {})
    prompt = chat_prompt(tokenizer, asked.pop("messages"), **asked, **variables)
    tokens = [_token(tokenizer, index) for index in prompt.token_ids]
    if as_json:
        print_json({"prompt": prompt.text, "tokens": tokens})
        return
    for line in prompt.text.split("\n"):
        out.print(styled(line), soft_wrap=True)
    out.print()
    width = max((len(str(token["id"])) for token in tokens), default=1)
    for token in tokens:
        special = token["special"]
        text = json.dumps(token["text"], ensure_ascii=False)
        mark = "  special" if special else ""
        out.print(styled(f"{token['id']:>{width}}  ", (text, "bold magenta" if special else ""), mark), soft_wrap=True)
    out.print(styled((f"{len(tokens)} tokens", "dim")))


def _token(tokenizer: Tokenizer, index: int) -> dict[str, Any]:
    """Bytes that are no whole character are spelled out."""
    text = tokenizer.token_bytes(index).decode("utf-8", errors="backslashreplace")
    return {"id": index, "text": text, "special": index in tokenizer.control_ids}
