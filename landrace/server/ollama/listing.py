"""What is served, in the words of Ollama's API."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from landrace import __version__
from landrace.server.engines.registry import ServedModel
from landrace.server.fields import Fields, Neutral
from landrace.server.ollama.names import our_name
from landrace.server.ollama.replies import timestamp
from landrace.server.openapi.description import OBJECT, described
from landrace.server.serving import Serving

_GET = ["GET", "HEAD"]


class ShowRequest(Fields):
    """POST /api/show."""

    neutral: ClassVar[Mapping[str, Neutral]] = {"verbose": bool}

    model: str


def add_routes(router: APIRouter, serving: Serving) -> None:
    """`/api/version`, `/api/tags`, `/api/ps` and `/api/show`."""
    registry = serving.registry

    @router.api_route("/api/version", methods=_GET, **described("The version, as Ollama tells its own.", reply=OBJECT))
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @router.api_route("/api/tags", methods=_GET, **described("What is served, as Ollama lists it.", reply=OBJECT))
    async def tags() -> dict[str, Any]:
        return {"models": [_listed(model) for model in registry]}

    @router.api_route("/api/ps", methods=_GET, **described("What is open, as Ollama lists it.", reply=OBJECT))
    async def running() -> dict[str, Any]:
        return {
            "models": [
                {**_listed(model), "context_length": model.engine.max_length}
                for model in registry
                if model.engine.alive
            ]
        }

    @router.post(
        "/api/show", **described("What is known of a model, as Ollama tells it.", ShowRequest, OBJECT, failure=OBJECT)
    )
    async def show(http: Request) -> Response:
        body = await serving.desk.read(http, ShowRequest, any_type=True)
        model = await serving.find(http, our_name(registry, body.model))
        return JSONResponse(_shown(model))


def _listed(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": timestamp(datetime.fromtimestamp(model.created, UTC)),
        "details": _details(model),
    }


def _details(model: ServedModel) -> dict[str, Any]:
    return {"parent_model": model.parent or ""}


def _shown(model: ServedModel) -> dict[str, Any]:
    """Clients look for the context's length behind the name of an architecture; here that is the engine's."""
    template = model.engine.tokenizer.chat_template
    return {
        "modified_at": timestamp(datetime.fromtimestamp(model.created, UTC)),
        "template": "" if template is None else template.source,
        "parameters": "",
        "details": _details(model),
        "model_info": {"general.architecture": "landrace", "landrace.context_length": model.engine.max_length},
        "capabilities": _capabilities(model),
    }


def _capabilities(model: ServedModel) -> list[str]:
    tokenizer = model.engine.tokenizer
    able = model.engine.abilities.names(chats=tokenizer.chat_template is not None)
    found = [name for name in able if name in ("completion", "embedding")]
    if "chat" in able and tokenizer.answer_grammar.name:  # that of a family which writes calls
        found.append("tools")
    if "chat" in able and tokenizer.answer_grammar.thought is not None:
        found.append("thinking")
    return found
