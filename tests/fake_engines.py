"""Engines without a process, for what is only bookkeeping: they open when they are let, and take what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from landrace.errors import CheckpointError, LandraceError
from landrace.server.engines import hosted, opener
from landrace.server.engines.describing import Described, Description
from landrace.server.engines.hosted import Adapter, Hosted
from landrace.server.engines.messages import EngineSettings
from landrace.server.engines.opener import Opener
from landrace.server.engines.registry import Registry


@dataclass
class House:
    """A machine with models of these bytes, by name."""

    sizes: Mapping[str, int]
    measured: dict[str, int] = field(default_factory=dict)
    """What a model takes once it is open, where that is not what its files tell."""
    failing: dict[str, LandraceError] = field(default_factory=dict)
    """What opening a model raises."""
    doors: dict[str, asyncio.Event] = field(default_factory=dict)
    """What opening a model waits for."""
    events: list[str] = field(default_factory=list)
    running: list[FakeEngine] = field(default_factory=list)

    @property
    def taken(self) -> int:
        return sum(self.measured.get(one.name, self.sizes[one.name]) for one in self.running)

    @property
    def open(self) -> list[str]:
        return [one.name for one in self.running]

    def engine(self, name: str) -> FakeEngine:
        return next(one for one in self.running if one.name == name)

    def registry(
        self,
        *,
        memory: int,
        on_demand: Sequence[str] = (),
        adapters: Mapping[str, Path] | None = None,
        aliases: Mapping[str, str] | None = None,
        wait_seconds: float = 60,
        max_pending: int = 8,
    ) -> Registry:
        """`adapters` are the first model's."""
        bases = [
            Hosted(EngineSettings(name, (adapters or {}) if n == 0 else {}), max_pending=max_pending)
            for n, name in enumerate(self.sizes)
        ]
        return Registry(bases, Opener(on_demand=on_demand, memory=memory, wait_seconds=wait_seconds), aliases)


class FakeEngine:
    def __init__(self, house: House, settings: EngineSettings, max_pending: int) -> None:
        self.house, self.settings, self.max_pending = house, settings, max_pending
        self.name = settings.model
        self.unfinished = 0
        self.adapters: dict[str, Path] = {}
        self.gave_up = ""
        self.tokenizer = SimpleNamespace(chat_template="a template")
        self.abilities = SimpleNamespace(names=lambda chats: ["completion", "chat"])

    async def start(self) -> None:
        for name, folder in self.settings.adapters.items():
            await self.load_adapter(name, folder)
        self.house.running.append(self)
        try:
            if self.name in self.house.doors:
                await self.house.doors[self.name].wait()
            await asyncio.sleep(0)
            if self.name in self.house.failing:
                raise self.house.failing[self.name]
        except BaseException:
            self.house.running.remove(self)
            raise
        self.house.events.append(f"open {self.name}")

    async def stop(self) -> None:
        assert self.unfinished == 0 or self.gave_up, f"{self.name} was unloaded under its requests"
        await asyncio.sleep(0)
        self.house.running.remove(self)
        self.house.events.append(f"close {self.name}")

    async def facts(self) -> SimpleNamespace:
        return SimpleNamespace(resident_bytes=self.house.measured.get(self.name, self.house.sizes[self.name]))

    async def load_adapter(self, name: str, folder: Path) -> None:
        await asyncio.sleep(0)
        if not folder.is_dir():
            raise CheckpointError(f"There is no adapter in {folder}.")
        self.adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        await asyncio.sleep(0)
        del self.adapters[name]

    def give_up(self, reason: str) -> None:
        self.gave_up = reason


def registry_of(name: str, engine: Any, *adapters: str) -> Registry:
    """With one model, which is open: `engine` has what a test needs of one."""
    engine.settings = EngineSettings(name)
    base = Hosted(engine.settings, max_pending=8)
    base.engine, base.opened_at = engine, 0.0
    base.adapters = {adapter: Adapter(Path()) for adapter in adapters}
    return Registry([base])


def make_house(monkeypatch: pytest.MonkeyPatch, **sizes: int) -> House:
    """Engines are fake from now on."""
    house = House(sizes)

    async def describe(settings: Sequence[EngineSettings]) -> Described:
        await asyncio.sleep(0)
        told = [Description(sizes[one.model], 64, ("completion", "chat")) for one in settings]
        return Described(1000, True, tuple(told))

    def engine(settings: EngineSettings, max_pending: int) -> FakeEngine:
        return FakeEngine(house, settings, max_pending)

    monkeypatch.setattr(hosted, "EngineProcess", engine)
    monkeypatch.setattr(opener, "describe", describe)
    return house
