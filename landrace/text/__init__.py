"""Strings and messages to token ids and back."""

from __future__ import annotations

from landrace.text.chat_template import ChatTemplate
from landrace.text.from_folder import load_tokenizer
from landrace.text.from_gguf import tokenizer_from_gguf
from landrace.text.prompt import ChatPrompt, chat_prompt, encode_chat
from landrace.text.stream import TextStream
from landrace.text.tokenizer import Tokenizer

__all__ = [
    "ChatPrompt",
    "ChatTemplate",
    "TextStream",
    "Tokenizer",
    "chat_prompt",
    "encode_chat",
    "load_tokenizer",
    "tokenizer_from_gguf",
]
