"""`document`: routes as an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from landrace import __version__
from landrace.server.openapi.description import EVENTS, JSON, PLACE, Content, Description, Told

_REFERENCE = "#/components/schemas/{model}"
_KEY = "key"
_BODILESS = {"HEAD"}


class ErrorDetails(Told):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The field, with its path inside of lists and objects."""
    code: str | None


class ErrorReply(Told):
    """Every error has this shape."""

    error: ErrorDetails


def document(routers: Iterable[APIRouter]) -> dict[str, Any]:
    """Raises LookupError for a route without a description."""
    found = [(route, _said(route)) for route in routes_of(routers)]
    schemas = _Schemas([description for _, description in found])
    paths: dict[str, dict[str, Any]] = {}
    for route, description in found:
        methods = paths.setdefault(route.path_format, {})
        for method in sorted(route.methods or ()):
            methods[method.lower()] = _operation(route, method, description, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Landrace", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "securitySchemes": {_KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def routes_of(routers: Iterable[APIRouter]) -> Iterator[APIRoute]:
    """Those that are to be described."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                yield route


def description_of(route: APIRoute) -> Description | None:
    """What the route says of itself."""
    found = (route.openapi_extra or {}).get(PLACE)
    assert found is None or isinstance(found, Description)
    return found


def _said(route: APIRoute) -> Description:
    description = description_of(route)
    if description is None:
        raise LookupError(f"The route {route.path} has no description: see `described`.")
    return description


class _Schemas:
    """The models that descriptions name, each once: two of one name have longer ones here."""

    def __init__(self, descriptions: Iterable[Description]) -> None:
        models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(ErrorReply, "serialization"): None}
        for one in descriptions:
            for content in (one.body, one.reply, one.stream, one.failure):
                if isinstance(content, type):
                    models[content, "validation" if content is one.body else "serialization"] = None
        self._references, told = models_json_schema(list(models), ref_template=_REFERENCE)
        self.definitions: dict[str, Any] = dict(sorted(told["$defs"].items()))

    def of(self, content: Content, mode: JsonSchemaMode) -> Mapping[str, Any]:
        """A model's place, or a schema as it is."""
        return content if isinstance(content, dict) else self._references[content, mode]


def _operation(route: APIRoute, method: str, description: Description, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if method not in _BODILESS:
        reply = {} if description.reply is None else {"schema": schemas.of(description.reply, "serialization")}
        content = {description.media_type: reply}
        if description.stream is not None:
            event = {"x-event": schemas.of(description.stream, "serialization")}
            content[EVENTS] = {"schema": {"type": "string", **event}}
    replies = {str(status): _reply("As asked for.", content) for status in (200, *description.also)}
    failure = schemas.of(description.failure or ErrorReply, "serialization")
    failed = {} if method in _BODILESS else {JSON: {"schema": failure}}
    body = {}
    if description.body is not None:
        sent = {description.body_type: {"schema": schemas.of(description.body, "validation")}}
        body = {"requestBody": {"required": True, "content": sent}}
    return {
        "operationId": f"{method.lower()}{route.path_format}".replace("/", "_").replace("{", "").replace("}", ""),
        "summary": description.summary,
        "parameters": list(_parameters(route)),
        **body,
        "responses": {
            **replies,
            "4XX": _reply("The call is at fault.", failed),
            "5XX": _reply("The server is.", failed),
        },
        "security": [] if description.is_open else [{_KEY: []}],
    }


def _reply(text: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": text, **({"content": content} if content else {})}


def _parameters(route: APIRoute) -> Iterator[dict[str, Any]]:
    for name in route.param_convertors:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for field in route.dependant.query_params:
        schema = TypeAdapter(field.field_info.rebuild_annotation()).json_schema()
        yield {"name": field.alias, "in": "query", "required": field.field_info.is_required(), "schema": schema}
