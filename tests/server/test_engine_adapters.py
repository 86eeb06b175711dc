"""What adapters are called and when they are taken off, by the table alone and under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import torch
from driven_engines import Asked, running
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from landrace.checkpoints import open_checkpoint
from landrace.checkpoints.adapter import read_adapter, write_adapter
from landrace.errors import LandraceError, OptionError
from landrace.server.engines.adapters import AdapterTable

NAMES = ("one", "two", "three")
REPLACEMENTS, CLIENTS = 20, 16


def doubled(adapter: Path, model: Path, folder: Path) -> Path:
    """The adapter with other weights."""
    checkpoint = open_checkpoint(model)
    spec, tensors, _ = read_adapter(adapter, *checkpoint.adapter_sources)
    changed = {name: tensor * (2.0 if name.endswith("lora_B") else 1.0) for name, tensor in tensors.items()}
    write_adapter(folder, spec, changed, checkpoint.sources, "tiny", {})
    return folder


def test_replacing_an_adapter_loses_no_request(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """Every request is answered whole by the adapter that its name meant when it was submitted."""
    folders = (tiny_adapter, doubled(tiny_adapter, tiny_model, tmp_path / "doubled"))

    async def talk() -> None:
        async with running(tiny_model) as engine:
            expected: dict[str, list[int]] = {}
            for folder in folders:
                await engine.load_adapter("tuned", folder)
                expected[engine.fingerprint("tuned")] = await Asked(engine, "tuned").answer()
            assert len({tuple(tokens) for tokens in expected.values()}) == 2
            ended = asyncio.Event()
            answered: Counter[str] = Counter()

            async def client() -> None:
                while not ended.is_set():
                    asked = Asked(engine, "tuned")
                    meant = engine.fingerprint("tuned")
                    assert await asked.answer() == expected[meant]
                    answered[meant] += 1

            clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
            for n in range(REPLACEMENTS):
                await engine.load_adapter("tuned", folders[n % 2])
                before = answered.total()
                while answered.total() < before + CLIENTS and not any(task.done() for task in clients):
                    await asyncio.sleep(0.01)
            ended.set()
            await asyncio.gather(*clients)
            assert set(answered) == set(expected) and engine.unfinished == 0
            assert list(engine.adapters) == ["tuned"] and not engine._adapters._retired

    torch.set_num_threads(1)
    asyncio.run(talk())


class Tables(RuleBasedStateMachine):
    """`AdapterTable` against what an engine of it would have loaded, and who would use that."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.loading: list[str] = []
        self.users: list[str] = []

    @initialize(names=st.sets(st.sampled_from(NAMES)))
    def start(self, names: set[str]) -> None:
        self.table = AdapterTable({name: Path(name) for name in names})
        self.loaded = set(self.table.to_open())

    @rule(name=st.sampled_from(NAMES))
    def begin(self, name: str) -> None:
        key = self.table.begin(name, Path(name))
        assert key not in self.loaded and key not in self.loading
        self.loading.append(key)

    @precondition(lambda self: self.loading)
    @rule(works=st.booleans())
    def finish(self, works: bool) -> None:
        key = self.loading.pop(0)
        if not works:
            self.table.failed(key)
            return
        self.loaded.add(key)
        old = self.table.loaded(key, key)
        if old is not None and self.table.retire(old):
            self._take_off(old)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        try:
            key = self.table.remove(name)
        except OptionError:
            assert name not in self.table.folders
        else:
            if key is not None and self.table.retire(key):
                self._take_off(key)

    @rule(name=st.sampled_from(NAMES))
    def use(self, name: str) -> None:
        if name in self.table.folders and name not in self.table.lost:
            key = self.table.key(name)
            assert key in self.loaded
            self.table.use(key)
            self.users.append(key)

    @precondition(lambda self: self.users)
    @rule(which=st.integers(0, 50))
    def leave(self, which: int) -> None:
        key = self.users.pop(which % len(self.users))
        if self.table.leave(key):
            self._take_off(key)

    @rule(lost=st.sets(st.integers(0, 5)))
    def restart(self, lost: set[int]) -> None:
        """The process dies with all it had; the next one opens what it can."""
        assert self.table.gone() == set(self.loading)
        self.loading = []
        keys = self.table.to_open()
        gone = {key: LandraceError("gone") for n, key in enumerate(keys) if n in lost}
        self.loaded = set(keys) - set(gone)
        self.table.opened({None: "", **{key: key for key in self.loaded}}, gone)

    def _take_off(self, key: str) -> None:
        assert key not in self.users, "nobody uses it"
        self.loaded.discard(key)

    @invariant()
    def what_is_named_is_there_and_what_is_there_is_named_or_used(self) -> None:
        if not hasattr(self, "table"):
            return
        named = {self.table.key(name) for name in self.table.folders if name not in self.table.lost}
        assert named <= self.loaded
        assert self.loaded - named <= set(self.users)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
