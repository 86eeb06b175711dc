"""From a body of `/v1/completions` to token ids."""

from __future__ import annotations

from landrace.errors import PromptTooLongError
from landrace.server.chats.chat import renamed
from landrace.server.engines.process import EngineProcess
from landrace.server.generation import Prompt, check_count
from landrace.server.openai.schema import CompletionRequest
from landrace.server.openai.structured import field_of_guide
from landrace.text.guides import Guide, check_guide


def plain_prompts(engine: EngineProcess, body: CompletionRequest) -> list[Prompt]:
    """The token ids of every prompt. Raises RequestError for one that cannot fit, or for too many."""
    check_count(engine, len(body.prompt) * body.n)
    with renamed({"guide": field_of_guide(body.response_format, body.guided)}):
        return [plain_prompt(engine, prompt, body.said_guide) for prompt in body.prompt]


def plain_prompt(engine: EngineProcess, prompt: str | list[int], guide: Guide | None) -> Prompt:
    """The token ids of one. Raises RequestError for one that cannot fit, for a guide that cannot be kept to, and for a
    model that only reads."""
    engine.abilities.check_writes(engine.settings.model)
    if guide is not None:
        check_guide(guide, engine.tokenizer)
    limit = engine.prompt_limit
    if isinstance(prompt, str):
        return Prompt(tuple(engine.tokenizer.encode(prompt, limit=limit)), prompt, guide=guide)
    if limit is not None and len(prompt) > limit:
        raise PromptTooLongError(
            f"The maximum context length is {limit} tokens; the prompt has {len(prompt)}.",
            field="prompt",
            hint="Shorten the prompt.",
        )
    return Prompt(tuple(prompt), guide=guide)
