"""`document`: an application's routes as an OpenAPI 3.1 document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

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


def document(app: FastAPI) -> dict[str, Any]:
    """Raises LookupError for a route without a description."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes_of(app):
        description = description_of(route)
        if description is None:
            raise LookupError(f"The route {route.path} has no description: see `described`.")
        methods = paths.setdefault(route.path_format, {})
        for method in sorted(route.methods):
            methods[method.lower()] = _operation(route, method, description, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": app.title, "version": app.version},
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "securitySchemes": {_KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def routes_of(app: FastAPI) -> Iterator[APIRoute]:
    """Those that are to be described."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            yield route


def description_of(route: APIRoute) -> Description | None:
    """What the route says of itself."""
    found = (route.openapi_extra or {}).get(PLACE)
    assert found is None or isinstance(found, Description)
    return found


class _Schemas:
    """The models that operations name, each once."""

    def __init__(self) -> None:
        self._models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}

    def of(self, content: Content, mode: JsonSchemaMode) -> Mapping[str, Any]:
        if isinstance(content, dict):
            return content
        self._models[content, mode] = None
        return {"$ref": _REFERENCE.format(model=content.__name__)}

    def definitions(self) -> dict[str, Any]:
        """Replies may grow, so they do not forbid further fields; bodies do."""
        found: dict[str, Any] = {}
        for model, mode in self._models:
            _, told = models_json_schema([(model, mode)], ref_template=_REFERENCE)
            for name, schema in told["$defs"].items():
                if mode == "serialization":
                    schema.pop("additionalProperties", None)
                found[name] = schema
        return dict(sorted(found.items()))


def _operation(route: APIRoute, method: str, description: Description, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if method not in _BODILESS:
        reply = {} if description.reply is None else {"schema": schemas.of(description.reply, "serialization")}
        content = {description.media_type: reply}
        if description.stream is not None:
            content[EVENTS] = {"schema": {"type": "string"}}
            schemas.of(description.stream, "serialization")
    replies = {str(status): _reply("As asked for.", content) for status in (200, *description.also)}
    failed = {} if method in _BODILESS else {JSON: {"schema": schemas.of(ErrorReply, "serialization")}}
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
