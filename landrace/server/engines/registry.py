"""`Registry`: the models and adapters of this server, by the names that clients ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from landrace.errors import OptionError
from landrace.server.engines.hosted import Adapter, Hosted
from landrace.server.engines.opener import Opener
from landrace.server.engines.process import EngineProcess, EngineStoppedError
from landrace.server.http.errors import ApiError

_MOST_TOLD = 8
"""Names in a message."""


@dataclass(frozen=True)
class ServedModel:
    """One name a client can ask for: a base model, or an adapter on it."""

    name: str
    engine: EngineProcess
    """Another one whenever the model has been closed and opened again."""
    adapter: str | None = None
    parent: str | None = None
    created: int = 0
    """Seconds since the epoch."""


class Registry:
    """Finds what is served. Its methods belong to one event loop."""

    def __init__(
        self, models: Sequence[Hosted], opener: Opener | None = None, aliases: Mapping[str, str] | None = None
    ) -> None:
        """`aliases`: further names, and the models or adapters they stand for. OptionError for a name twice, and for an
        alias of nothing."""
        self._opener = opener or Opener()
        self._bases = {base.name: base for base in models}
        self._aliases = dict(aliases or {})
        self._changing: set[str] = set()
        """Adapters that are being loaded or unloaded."""
        names = [*(base.name for base in models), *(name for base in models for name in base.adapters), *self._aliases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise OptionError(f"Two models, adapters or aliases are called {twice[0]!r}.", hint="Rename one of them.")
        for alias, target in self._aliases.items():
            if target in self._aliases or target not in names:
                raise OptionError(f"--alias {alias}={target}: this server has no model or adapter {target!r}.")

    def __iter__(self) -> Iterator[ServedModel]:
        """The models, each followed by its adapters."""
        for base in list(self._bases.values()):
            yield _served(base)
            for name in list(base.adapters):
                yield _served(base, name)

    def __contains__(self, name: object) -> bool:
        """Whether a model, an adapter or an alias is called so."""
        return name in self._aliases or any(model.name == name for model in self)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names, and what they stand for."""
        return self._aliases

    @property
    def engines(self) -> list[EngineProcess]:
        """Those of the models that are open."""
        return [base.engine for base in self._bases.values() if base.is_open]

    def check(self, name: str) -> ServedModel:
        """The model or adapter of that name, open or not. Raises ApiError (404)."""
        asked = self._aliases.get(name, name)
        if asked in self._bases:
            return _served(self._bases[asked])
        for base in self._bases.values():
            if asked in base.adapters:
                return _served(base, asked)
        raise self._unknown(name)

    async def find(self, name: str) -> ServedModel:
        """As `check`, and its engine is open when this returns, and stays so until the task that asked has ended: one
        task for each call, so that a model is in use for no longer than it must.

        Waits for a model that is being opened. Raises ApiError (404), and EngineBusyError and EngineStoppedError where
        that takes too long or has failed.
        """
        base = self.host_of(self.check(name))
        asking = asyncio.current_task()
        assert asking is not None
        base.take()
        asking.add_done_callback(lambda _: self._opener.left(base))
        await self._opener.ready(base)
        found = self.check(name)
        problem = None if found.adapter is None else base.adapters[found.adapter].problem
        if problem is not None:
            raise EngineStoppedError(f"The adapter {name} cannot be used: {problem.message}", code="adapter_lost")
        return found

    @property
    def bases(self) -> list[Hosted]:
        """The base models."""
        return list(self._bases.values())

    def host_of(self, model: ServedModel) -> Hosted:
        """The base model behind a name: its state, its description, its adapters."""
        return self._bases[model.parent or model.name]

    @property
    def memory(self) -> int:
        """Bytes for all models together."""
        return self._opener.memory

    def memory_of(self, model: ServedModel) -> int:
        """Bytes that are kept for the base model behind a name; 0 where it is neither open nor being opened."""
        return self._opener.memory_of(self.host_of(model))

    async def add_adapter(self, parent: str, name: str, folder: Path) -> ServedModel:
        """Serves the adapter in `folder` on the model `parent` by `name`, or this one from now on instead of the one
        that has the name: calls that run end with the one they began with.

        Raises ApiError: 404 for an unknown parent, 409 for a name that something else has; what `find` raises; and the
        LandraceError of an adapter that cannot be loaded.
        """
        base = self.host_of(self.check(parent))
        taken = name in self._bases or name in self._aliases
        if taken or any(name in other.adapters for other in self._bases.values() if other is not base):
            raise ApiError(409, f"The name {name!r} is another model's or adapter's.", param="name", code="name_taken")
        with self._change(name, base):
            await self._opener.ready(base)
            await base.engine.load_adapter(name, folder)
            base.adapters[name] = Adapter(folder)
        return _served(base, name)

    async def remove_adapter(self, name: str) -> None:
        """No call finds the adapter from now on; returns when those that use it have ended. Raises ApiError (404)."""
        model = self.check(name)
        if model.adapter is None:
            raise ApiError(404, f"{model.name!r} is a model and no adapter.", param="name", code="adapter_not_found")
        base = self.host_of(model)
        with self._change(model.adapter, base):
            removed = base.adapters.pop(model.adapter)
            if base.is_open and removed.problem is None:
                await base.engine.unload_adapter(model.adapter)

    async def start(self) -> None:
        """Opens the models that are to be open from the start, one after another, as long as they fit. Raises what is
        wrong with one of the others, too, and leaves none open then."""
        try:
            await self._opener.start(list(self._bases.values()))
        except BaseException:
            await self.stop()
            raise

    def give_up(self, reason: str) -> None:
        """Ends every unfinished request, and every wait for a model, with an EngineStoppedError."""
        self._opener.give_up(reason)
        for engine in self.engines:
            engine.give_up(reason)

    async def stop(self) -> None:
        """Ends the engines that are open. What still runs is lost."""
        self._opener.give_up("The server is stopping.")
        await self._opener.stop()

    @contextmanager
    def _change(self, name: str, base: Hosted) -> Iterator[None]:
        """While an adapter is loaded or unloaded, its model stays open, and nobody else does either."""
        if name in self._changing:
            raise ApiError(409, f"The adapter {name!r} is being loaded or unloaded.", param="name", code="name_taken")
        self._changing.add(name)
        base.take()
        try:
            yield
        finally:
            self._opener.left(base)
            self._changing.remove(name)

    def _unknown(self, name: str) -> ApiError:
        known = [*(model.name for model in self), *self._aliases]
        by_ending = {one.lower().rpartition("/")[2]: one for one in reversed(known)}
        by_name = {one.lower(): one for one in reversed(known)}
        asked = name.lower()
        near = [by_name[one] for one in get_close_matches(asked, by_name, n=3)]
        near += [by_ending[one] for one in get_close_matches(asked.rpartition("/")[2], by_ending, n=3)]
        told = list(dict.fromkeys(near))[:3]
        more = len(known) - _MOST_TOLD
        has = ", ".join(known[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
        hint = f"Did you mean {' or '.join(told)}?" if told else f"This server has: {has}."
        return ApiError(404, f"There is no model {name!r}. {hint}", param="model", code="model_not_found")


def _served(base: Hosted, adapter: str | None = None) -> ServedModel:
    if adapter is None:
        return ServedModel(base.name, base.engine, created=base.created)
    return ServedModel(adapter, base.engine, adapter, base.name, base.adapters[adapter].created)
