"""Which models are open, who waits, who goes, and what names mean: with engines that have no process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fake_engines import House, make_house
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landrace.errors import CheckpointError, LandraceError, OptionError
from landrace.server.engines.budget import MemoryBudget
from landrace.server.engines.process import EngineBusyError, EngineStoppedError
from landrace.server.engines.registry import Registry, ServedModel
from landrace.server.http.errors import ApiError


async def call(registry: Registry, name: str, during: Callable[[], Awaitable[object]] | None = None) -> ServedModel:
    """A call in a task of its own, as the server makes of each."""

    async def asked() -> ServedModel:
        model = await registry.find(name)
        model.engine.unfinished += 1  # type: ignore[misc]  a fake
        try:
            if during is not None:
                await during()
        finally:
            model.engine.unfinished -= 1  # type: ignore[misc]
        return model

    return await asyncio.create_task(asked())


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_models_open_in_order_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, b=70, c=50)

    async def run() -> None:
        registry = house.registry(memory=100)
        await registry.start()
        assert house.events == ["open a", "open c"]
        assert [registry.host_of(model).state for model in registry] == ["open", "closed", "open"]
        assert [registry.memory_of(model) for model in registry] == [40, 0, 50]
        await registry.stop()
        assert house.open == []

    asyncio.run(run())


def test_the_one_that_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, b=40, c=40, d=80)

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["c", "d"])
        await registry.start()
        await call(registry, "a")
        await call(registry, "c")
        assert house.events[2:] == ["close b", "open c"]
        await call(registry, "b")
        assert house.events[4:] == ["close a", "open b"]
        await call(registry, "d")
        assert house.events[6:] == ["close c", "close b", "open d"]
        await registry.stop()

    asyncio.run(run())


def test_two_calls_for_a_closed_model_open_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, b=40)

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b"])
        await registry.start()
        models = await asyncio.gather(*(call(registry, "b") for _ in range(4)))
        assert house.events == ["open a", "open b"]
        assert len({id(model.engine) for model in models}) == 1
        await registry.stop()

    asyncio.run(run())


def test_a_model_that_is_used_stays_and_others_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=60, b=60, c=30)

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b", "c"])
        await registry.start()
        free = asyncio.Event()
        using = asyncio.create_task(call(registry, "a", free.wait))
        await settled()
        waiting = asyncio.create_task(call(registry, "b"))
        await settled()
        assert registry.host_of(registry.check("b")).state == "opening"
        # What needs no room opens meanwhile, and the one in use answers.
        await call(registry, "c")
        await call(registry, "a")
        assert not waiting.done() and house.open == ["a", "c"]
        free.set()
        await waiting
        assert (await using).name == "a"
        # c and a are both idle now, and c was used longest ago: with it gone there is no room yet.
        assert house.events[2:] == ["close c", "close a", "open b"]
        await registry.stop()

    asyncio.run(run())


def test_a_model_found_stays_until_its_call_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the moment a call finds its model and the moment its requests begin."""
    house = make_house(monkeypatch, a=60, b=60)

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b"])
        await registry.start()
        writes_its_prompt = asyncio.Event()

        async def slow() -> None:
            model = await registry.find("a")
            await writes_its_prompt.wait()
            assert model.engine in house.running

        asked = asyncio.create_task(slow())
        await settled()
        other = asyncio.create_task(call(registry, "b"))
        await settled()
        assert house.open == ["a"]
        writes_its_prompt.set()
        await asyncio.gather(asked, other)
        assert house.open == ["b"]
        await registry.stop()

    asyncio.run(run())


def test_waiting_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=60, b=60)

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b"], wait_seconds=0.05, max_pending=2)
        await registry.start()
        free = asyncio.Event()
        using = asyncio.create_task(call(registry, "a", free.wait))
        await settled()
        told = await asyncio.gather(*(call(registry, "b") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in told] == [EngineStoppedError, EngineStoppedError, EngineBusyError]
        assert told[0].code == "model_not_available" and told[0].retry_after  # type: ignore[union-attr]
        assert "memory that other models use" in str(told[0])
        house.doors["b"] = asyncio.Event()
        free.set()
        await using
        while not registry.memory_of(registry.check("b")):
            await asyncio.sleep(0.01)
        with pytest.raises(EngineStoppedError, match="still being opened"):
            await call(registry, "b")
        house.doors["b"].set()
        while "open b" not in house.events:  # those who waited are gone, and it opens all the same
            await asyncio.sleep(0.01)
        assert (await call(registry, "b")).name == "b"
        await registry.stop()

    asyncio.run(run())


def test_a_model_that_does_not_open_fails_its_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, b=40)
    clock = [0.0]
    monkeypatch.setattr("landrace.server.engines.opener.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("landrace.server.engines.hosted.time.monotonic", lambda: clock[0])

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b"])
        await registry.start()
        house.failing["b"] = CheckpointError("The file is cut off.")
        errors = await asyncio.gather(*(call(registry, "b") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(error, EngineStoppedError) and "cut off" in error.message for error in errors)
        assert registry.host_of(registry.check("b")).state == "failed"
        assert registry.memory_of(registry.check("b")) == 0
        await call(registry, "a")
        del house.failing["b"]
        with pytest.raises(EngineStoppedError, match="cut off"):
            await call(registry, "b")
        clock[0] += 60  # it is tried again
        await call(registry, "b")
        assert registry.host_of(registry.check("b")).state == "open"
        await registry.stop()

    asyncio.run(run())


def test_what_cannot_fit_or_open_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, big=101)
    for on_demand in ((), ("big",)):
        with pytest.raises(OptionError, match=r"big needs about .* --memory|big needs about"):
            asyncio.run(house.registry(memory=100, on_demand=on_demand).start())
        assert house.open == []
    house = make_house(monkeypatch, a=40, b=40)
    house.failing["b"] = CheckpointError("The file is cut off.")
    with pytest.raises(CheckpointError, match="cut off"):
        asyncio.run(house.registry(memory=100).start())
    assert house.open == []


def test_what_takes_more_than_its_files_tell_is_opened_with_the_room_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, b=40, c=20)
    house.measured["b"] = 70

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b"])
        await registry.start()
        await call(registry, "b")
        assert house.events[2:] == ["open b", "close b", "close a", "open b"]
        assert registry.memory_of(registry.check("b")) == 70
        house.measured["a"] = 200
        with pytest.raises(EngineStoppedError, match="a needs about"):
            await call(registry, "a")
        assert house.taken <= 100
        await registry.stop()

    asyncio.run(run())


def test_the_end_ends_waits_and_openings(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=60, b=60, c=30)
    house.doors["c"] = asyncio.Event()

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b", "c"])
        await registry.start()
        never = asyncio.Event()
        using = asyncio.create_task(call(registry, "a", never.wait))
        await settled()
        waiting = [asyncio.create_task(call(registry, name)) for name in ("b", "c")]
        await settled()
        registry.give_up("The server is stopping.")
        for task in waiting:
            with pytest.raises(EngineStoppedError, match="stopping"):
                await task
        with pytest.raises(EngineStoppedError, match="stopping"):
            await call(registry, "b")
        assert house.engine("a").gave_up
        using.cancel()
        await registry.stop()
        assert house.open == []

    asyncio.run(run())


def test_unknown_names_are_told_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, **{"smollm2": 10, "Qwen/Qwen3-0.6B": 10})
    aliases = {"gpt-4o-mini": "smollm2"}
    registry = house.registry(memory=100, adapters={"support": Path()}, aliases=aliases)
    for asked, told in (
        ("smolm2", "smollm2"),
        ("SMOLLM2", "smollm2"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("other/smollm2", "smollm2"),
        ("gpt-4o", "gpt-4o-mini"),
        ("suport", "support"),
    ):
        with pytest.raises(ApiError, match=f"Did you mean {told}") as error:
            registry.check(asked)
        assert (error.value.status, error.value.body["error"]["code"]) == (404, "model_not_found")
    with pytest.raises(ApiError, match=r"This server has: smollm2, support, Qwen/Qwen3-0\.6B, gpt-4o-mini"):
        registry.check("zzzz")
    assert registry.check("gpt-4o-mini").name == "smollm2"


def test_names_are_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=10, b=10)
    with pytest.raises(OptionError, match="called 'b'"):
        house.registry(memory=100, adapters={"b": Path()})
    with pytest.raises(OptionError, match="called 'b'"):
        house.registry(memory=100, aliases={"b": "a"})
    with pytest.raises(OptionError, match="no model or adapter 'c'"):
        house.registry(memory=100, aliases={"x": "c"})


def test_adapters_come_and_go_while_serving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = make_house(monkeypatch, a=40, b=40, c=40)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["c"])
        await registry.start()
        added = await registry.add_adapter("a", "own", old)
        assert (added.name, added.parent, added.adapter) == ("own", "a", "own")
        assert (await call(registry, "own")).adapter == "own"
        await registry.add_adapter("a", "own", new)
        assert house.engine("a").adapters == {"own": new}
        # A closed model is opened for it, which closes b: a was used later.
        await registry.add_adapter("c", "other", old)
        assert house.open == ["a", "c"]
        for parent, name in (("b", "own"), ("a", "other"), ("a", "b")):
            with pytest.raises(ApiError) as error:
                await registry.add_adapter(parent, name, new)
            assert error.value.status == 409
        with pytest.raises(CheckpointError):
            await registry.add_adapter("a", "broken", tmp_path / "nowhere")
        with pytest.raises(ApiError, match="no model 'broken'"):
            registry.check("broken")
        await registry.remove_adapter("own")
        assert house.engine("a").adapters == {}
        for name in ("own", "a"):
            with pytest.raises(ApiError) as error:
                await registry.remove_adapter(name)
            assert error.value.status == 404
        await registry.stop()

    asyncio.run(run())


def test_adapters_are_there_again_when_their_model_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = make_house(monkeypatch, a=60, b=60)
    folders = {name: tmp_path / name for name in ("first", "later", "lost")}
    for folder in folders.values():
        folder.mkdir()

    async def run() -> None:
        registry = house.registry(memory=100, adapters={"first": folders["first"]})
        await registry.start()
        for name in ("later", "lost"):
            await registry.add_adapter("a", name, folders[name])
        await call(registry, "b")
        assert house.open == ["b"]
        folders["lost"].rmdir()
        await call(registry, "later")
        assert house.engine("a").adapters.keys() == {"first", "later"}
        with pytest.raises(EngineStoppedError, match="lost cannot be used: There is no adapter") as error:
            await call(registry, "lost")
        assert error.value.code == "adapter_lost"
        folders["lost"].mkdir()
        await registry.add_adapter("a", "lost", folders["lost"])
        assert (await call(registry, "lost")).adapter == "lost"
        await registry.stop()

    asyncio.run(run())


SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60), min_size=1)


@given(st.integers(0, 100), st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60), st.booleans())))
def test_a_budget_is_never_exceeded(total: int, steps: list[tuple[str, int, bool]]) -> None:
    budget = MemoryBudget(total)
    held: dict[str, int] = {}
    for name, n_bytes, back in steps:
        if back:
            budget.give_back(name)
            held.pop(name, None)
        elif budget.take(name, n_bytes):
            held[name] = n_bytes
        else:
            assert sum(held.values()) - held.get(name, 0) + n_bytes > total
        assert {one: budget.held_by(one) for one in "abcdef"} == {one: held.get(one, 0) for one in "abcdef"}
        assert budget.free == total - sum(held.values()) >= 0


@given(SIZES, st.integers(0, 120), st.randoms(use_true_random=False))
def test_what_goes_is_idle_and_goes_only_if_that_helps(sizes: dict[str, int], asked: int, draw: random.Random) -> None:
    budget = MemoryBudget(100)
    held = [name for name, n_bytes in sizes.items() if budget.take(name, n_bytes)]
    for name in draw.sample(held, len(held)):
        held.remove(name)
        held.append(name)
        budget.use(name)
    idle = {name for name in held if draw.random() < 0.6}
    gone = []
    while (name := budget.to_unload(asked, idle)) is not None:
        gone.append(name)
        budget.give_back(name)
    assert gone == [name for name in held if name in idle][: len(gone)]
    if gone:
        assert budget.free >= asked
    else:
        assert budget.free >= asked or budget.free + sum(sizes[name] for name in idle) < asked


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(60, 140))
def test_random_work_never_exceeds_memory_and_unloads_nothing_in_use(
    monkeypatch: pytest.MonkeyPatch, seed: int, memory: int
) -> None:
    draw = random.Random(seed)
    house = make_house(monkeypatch, **{name: draw.randint(10, 60) for name in "abcde"})
    house.measured = {name: size + draw.randint(0, 10) for name, size in house.sizes.items() if size < 50}
    monkeypatch.setattr("landrace.server.engines.opener._LOOK_SECONDS", 0)

    async def client(registry: Registry) -> None:
        for _ in range(draw.randint(1, 6)):
            model = await call(registry, draw.choice("abcde"), settled if draw.random() < 0.5 else None)
            assert model.name in house.sizes
            assert registry.memory_of(model) <= memory

    async def watch(house: House) -> None:
        while True:
            assert sum(house.sizes[name] for name in house.open) <= memory
            await asyncio.sleep(0)

    async def run() -> None:
        registry = house.registry(memory=memory, on_demand="cde")
        await registry.start()
        watching = asyncio.create_task(watch(house))
        clients = asyncio.gather(*(client(registry) for _ in range(6)))
        done, _ = await asyncio.wait({watching, asyncio.ensure_future(clients)}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        watching.cancel()
        await registry.stop()
        assert house.open == []

    asyncio.run(run())


def test_a_failure_of_the_server_s_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(monkeypatch, a=40, b=40)
    house.failing["b"] = RuntimeError("no more processes")  # type: ignore[assignment]

    async def run() -> None:
        registry = house.registry(memory=100, on_demand=["b"])
        await registry.start()
        with pytest.raises(LandraceError, match="RuntimeError: no more processes"):
            await call(registry, "b")
        await registry.stop()

    asyncio.run(run())
