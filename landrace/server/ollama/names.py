"""How Ollama calls models: with a tag."""

from __future__ import annotations

from landrace.server.engines.registry import Registry

LATEST = ":latest"
"""The tag that Ollama's clients add to a name without one."""


def our_name(registry: Registry, name: str) -> str:
    """The name without that tag, where a model is called so."""
    bare = name.removesuffix(LATEST)
    return bare if bare in registry else name
