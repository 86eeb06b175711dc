"""Adapters loaded and unloaded while the server runs: `/v1/adapters`, and the same under vLLM's names.

No call names a path: what it names is looked up among the folders that the operator has put side by side.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict

from landrace.errors import CheckpointError, UnsupportedError
from landrace.server.access.caller import caller_of
from landrace.server.engines.registry import Registry, ServedModel
from landrace.server.http.errors import ApiError, FieldError
from landrace.server.models import ModelFacts, facts_of
from landrace.server.openapi.description import Told, described
from landrace.server.serving import Serving

_CONFIG = "adapter_config.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_GET = ["GET", "HEAD"]
_TEXT = "text/plain; charset=utf-8"


class AdapterRequest(BaseModel):
    """An adapter to load."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    """What calls ask for."""
    folder: str | None = None
    """A subfolder of the operator's folder; None: that of the same name."""
    model: str | None = None
    """The base model; None: the server's only one."""


class LoraRequest(BaseModel):
    """The same in vLLM's words."""

    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: str
    lora_path: str
    base_model_name: str | None = None
    load_inplace: bool = False


class UnloadLoraRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    lora_name: str
    lora_int_id: int | None = None


class AdapterList(Told):
    """The adapters that are loaded, and the subfolders from which more can be."""

    object: Literal["list"]
    data: list[ModelFacts]
    folders: list[str]


class Unloaded(Told):
    """The adapter is gone."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


def routes(serving: Serving) -> APIRouter:
    """For admins alone."""
    router = APIRouter()
    registry, parent = serving.registry, serving.adapter_folder

    async def load(name: str, folder: str, model: str | None, fields: Mapping[str, str]) -> ServedModel:
        if _NAME.fullmatch(name) is None:
            raise FieldError(
                f"{name!r} is not a name for an adapter: up to 128 letters, digits and . _ : / @ + -.",
                field=fields["name"],
            )
        found = await asyncio.to_thread(_folder, parent, folder, fields["folder"])
        base = _only_model(registry, fields["model"]) if model is None else model
        try:
            return await registry.add_adapter(base, name, found)
        except (CheckpointError, UnsupportedError) as error:
            raise FieldError(error.message, field=fields["folder"], hint=error.hint) from error

    @router.api_route("/v1/adapters", methods=_GET, **described("The adapters that are loaded.", reply=AdapterList))
    async def list_adapters(http: Request) -> dict[str, Any]:
        _check_admin(http)
        loaded = [facts_of(registry, model) for model in registry if model.adapter is not None]
        return {"object": "list", "data": loaded, "folders": sorted(await asyncio.to_thread(_folders, parent))}

    @router.post("/v1/adapters", **described("Loads an adapter, or replaces one.", AdapterRequest, ModelFacts))
    async def add_adapter(http: Request) -> dict[str, Any]:
        _check_admin(http)
        body = await serving.desk.read(http, AdapterRequest)
        fields = {"name": "name", "folder": "folder" if body.folder is not None else "name", "model": "model"}
        return facts_of(registry, await load(body.name, body.folder or body.name, body.model, fields))

    @router.delete("/v1/adapters/{name:path}", **described("Unloads an adapter.", reply=Unloaded))
    async def remove_adapter(http: Request, name: str) -> dict[str, Any]:
        _check_admin(http)
        await registry.remove_adapter(name)
        return {"id": name, "object": "model", "deleted": True}

    @router.post(
        "/v1/load_lora_adapter",
        **described("Loads an adapter, in vLLM's words.", LoraRequest, {"type": "string"}, media_type=_TEXT),
    )
    async def load_lora(http: Request) -> Response:
        _check_admin(http)
        body = await serving.desk.read(http, LoraRequest)
        if not body.load_inplace and body.lora_name in registry:
            raise FieldError(
                f"There is already an adapter or model {body.lora_name!r}.",
                field="lora_name",
                hint="load_inplace replaces an adapter.",
            )
        fields = {"name": "lora_name", "folder": "lora_path", "model": "base_model_name"}
        await load(body.lora_name, body.lora_path, body.base_model_name, fields)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @router.post(
        "/v1/unload_lora_adapter",
        **described("Unloads one.", UnloadLoraRequest, {"type": "string"}, media_type=_TEXT),
    )
    async def unload_lora(http: Request) -> Response:
        _check_admin(http)
        body = await serving.desk.read(http, UnloadLoraRequest)
        await registry.remove_adapter(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return router


def _check_admin(http: Request) -> None:
    if not caller_of(http).is_admin:
        raise ApiError(403, "Adapters are loaded and unloaded with an admin's key.", code="admin_only")


def _only_model(registry: Registry, field: str) -> str:
    bases = [model.name for model in registry if model.adapter is None]
    if len(bases) > 1:
        raise FieldError(f"Say which model the adapter is for: {', '.join(bases)}.", field=field)
    return bases[0]


def _folder(parent: Path | None, name: str, field: str) -> Path:
    if parent is None:
        raise ApiError(
            403,
            "This server loads no adapters while it runs: it was started without --adapter-folder.",
            code="adapters_not_allowed",
        )
    found = _folders(parent)
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(found)) or 'none'}."
        raise ApiError(404, f"There is no adapter folder {name!r}. {hint}", param=field, code="adapter_not_found")
    return found[name]


def _folders(parent: Path | None) -> dict[str, Path]:
    """The adapters that calls may name. One that a link leads out of the operator's folder to is none of them."""
    if parent is None:
        return {}
    try:
        inside = parent.resolve(strict=True)
        found = {name: Path(os.path.realpath(inside / name)) for name in os.listdir(inside) if not name.startswith(".")}
    except OSError as error:
        raise ApiError(500, f"The server's adapter folder cannot be read: {error.strerror}.") from error
    return {
        name: folder
        for name, folder in found.items()
        if folder.is_relative_to(inside) and folder != inside and (folder / _CONFIG).is_file()
    }
