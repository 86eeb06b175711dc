"""What is served: `/v1/models`."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request

from landrace.server.access.caller import caller_of
from landrace.server.engines.hosted import Hosted
from landrace.server.engines.registry import Registry, ServedModel
from landrace.server.openapi.description import Told, described
from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]


class ModelFacts(Told):
    """A base model, an adapter on it, or an alias of either."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int | None
    state: Literal["closed", "opening", "open", "closing", "failed"]
    error: str | None
    memory_bytes: int
    capabilities: list[str]
    alias_of: str | None


class ModelList(Told):
    """All of them."""

    object: Literal["list"]
    data: list[ModelFacts]


def routes(serving: Serving) -> APIRouter:
    """`/v1/models` and `/v1/models/NAME`."""
    router = APIRouter()
    registry = serving.registry

    @router.api_route("/v1/models", methods=_GET, **described("What is served.", reply=ModelList))
    async def list_models(http: Request) -> dict[str, Any]:
        may_use = caller_of(http).may_use
        own = [facts_of(registry, model) for model in registry if may_use(model.name)]
        aliases = [name for name, target in registry.aliases.items() if may_use(name) or may_use(target)]
        others = [_alias(registry, name) for name in aliases]
        return {"object": "list", "data": [*own, *(alias for alias in others if alias is not None)]}

    @router.api_route("/v1/models/{name:path}", methods=_GET, **described("One of them.", reply=ModelFacts))
    async def show_model(http: Request, name: str) -> dict[str, Any]:
        serving.check_access(http, name)
        return facts_of(registry, registry.check(name))

    return router


def facts_of(registry: Registry, model: ServedModel) -> dict[str, Any]:
    """A model or adapter as the API tells of it, whether it is open or not."""
    base = registry.host_of(model)
    facts = base.description
    lost = None if model.adapter is None else base.adapters[model.adapter].problem
    failure = lost or base.failure
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "landrace",
        "parent": model.parent,
        "max_model_len": facts.max_length if facts else None,
        "state": "failed" if lost else base.state,
        "error": failure.message if failure else None,
        "memory_bytes": registry.memory_of(model),
        "capabilities": _capabilities(base),
        "alias_of": None,
    }


def _capabilities(base: Hosted) -> list[str]:
    """What the files tell, and what is known better once it is open."""
    told = base.description.capabilities if base.description else ()
    if not base.is_open:
        return list(told)
    engine = base.engine
    of_template = [name for name in ("tools", "thinking") if name in told]
    return [*engine.abilities.names(chats=engine.tokenizer.chat_template is not None), *of_template]


def _alias(registry: Registry, name: str) -> dict[str, Any] | None:
    """None for an alias whose adapter has been unloaded."""
    target = registry.aliases[name]
    model = next((model for model in registry if model.name == target), None)
    return None if model is None else {**facts_of(registry, model), "id": name, "alias_of": target}
