"""The groups of routes that keys are given or refused."""

from __future__ import annotations

from collections.abc import Mapping

OPEN = "open"
"""Needs no key: what a load balancer asks, and the files of the page, which asks for a key itself."""
COMMON = "common"
"""For every key: what is served, tokens of a text, feedback."""
ADMIN = "admin"
"""For keys of administrators."""
OTHER = "other"
"""What is nothing, or not yet in a group: for keys that are not limited to groups."""

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    OPEN: ("/health", "/ready", "/assets"),
    "chat": ("/v1/chat", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"),
    "embeddings": (
        "/v1/embeddings",
        *("/v1/rerank", "/v2/rerank", "/rerank"),
        *("/v1/score", "/score"),
        *("/api/embed", "/api/embeddings"),
    ),
    "files": ("/v1/files", "/v1/batches"),
    "tuning": ("/v1/fine_tuning",),
    COMMON: (
        *("/v1/models", "/openapi.json", "/v1/feedback"),
        *("/v1/tokenize", "/tokenize", "/v1/detokenize", "/detokenize"),
        *("/api/tags", "/api/show", "/api/version", "/api/ps"),
    ),
    ADMIN: (
        *("/admin", "/v1/admin", "/metrics"),
        *("/v1/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    ),
}
_PAGES = ("/", "/admin")
"""They hold nothing of anybody's; what they show, they ask for with a key."""
_READING = ("GET", "HEAD", "OPTIONS")

SCOPES = tuple(name for name in _PREFIXES if name not in (OPEN, COMMON, ADMIN))
"""What a key's `routes` may name."""

_GROUP_OF = {prefix: name for name, prefixes in _PREFIXES.items() for prefix in prefixes}


def group_of(method: str, path: str) -> str:
    """The group of a call. What is under `/v1/models` may be read by all, and changed by administrators."""
    if path in _PAGES:
        return OPEN
    start = 0
    while (end := path.find("/", start + 1)) != -1:
        found = _GROUP_OF.get(path[:end])
        if found is not None:
            break
        start = end
    else:
        found = _GROUP_OF.get(path, OTHER)
    if path.startswith("/v1/models") and method not in _READING:
        return ADMIN
    return found
