"""Fields that are not implemented, and which values of them ask for nothing and are therefore taken."""

from __future__ import annotations

from collections.abc import Mapping

from landrace.server.fields import Neutral

OF_A_CALL: Mapping[str, Neutral] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "metadata": dict,
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": str,
    "prompt_cache_options": (),
    "prompt_cache_retention": str,
    "reasoning_effort": (),
    "safety_identifier": str,
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "user": str,
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Of a body, where its endpoint does not honour them: tools are for chats. What a choice of tools means without tools
is nothing; with them, `tools` is refused first."""

OF_A_MESSAGE: Mapping[str, Neutral] = {
    "annotations": list,
    "audio": (),
    "function_call": (),
    "refusal": ("",),
}
"""Of a message: what clients keep of an answer and send back with it."""
