"""What every API of chats does with a call before its answer begins."""

from __future__ import annotations

from functools import partial

from fastapi import Request

from landrace.server.chats.chat import Chat
from landrace.server.chats.prompts import chat_prompt
from landrace.server.engines.registry import ServedModel
from landrace.server.generation import Prompt
from landrace.server.serving import Serving


async def prepared(serving: Serving, http: Request, name: str, chat: Chat) -> tuple[ServedModel, Prompt]:
    """The model of that name, open, and its prompt. Raises ApiError (404) and what `chat_prompt` raises."""
    model = await serving.find(http, name)
    return model, await serving.desk.prepare(model.engine, http, partial(chat_prompt, model.engine, chat))
