"""`Registry`: the models and adapters of this server, by the names that clients ask for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from landrace.server.engines.process import EngineProcess
from landrace.server.http.errors import ApiError


@dataclass(frozen=True)
class ServedModel:
    """One name a client can ask for: a base model, or an adapter on it."""

    name: str
    engine: EngineProcess
    adapter: str | None = None
    parent: str | None = None
    created: int = 0
    """Seconds since the epoch."""


class Registry:
    """Finds what is served. Its methods belong to one event loop."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    @property
    def engines(self) -> list[EngineProcess]:
        """Each engine once."""
        return list({id(model.engine): model.engine for model in self}.values())

    def check(self, name: str) -> ServedModel:
        """The model or adapter of that name, open or not. Raises ApiError (404)."""
        if name not in self._models:
            raise ApiError(
                404,
                f"There is no model {name!r}. This server has: {', '.join(self._models)}.",
                param="model",
                code="model_not_found",
            )
        return self._models[name]

    async def find(self, name: str) -> ServedModel:
        """As `check`, and its engine is open when this returns."""
        return self.check(name)

    async def start(self) -> None:
        """Opens every model, one after another. Raises what opening it raised, and leaves none open then."""
        try:
            for engine in self.engines:
                await engine.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the engines that are open. What still runs is lost."""
        for engine in self.engines:
            if engine.started:
                await engine.stop()


def served(name: str, engine: EngineProcess, adapters: Sequence[str] = ()) -> list[ServedModel]:
    """A base model and the adapters that its engine opens with it."""
    created = int(time.time())
    base = ServedModel(name, engine, created=created)
    return [base, *(ServedModel(own, engine, own, name, created) for own in adapters)]
