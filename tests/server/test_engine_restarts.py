"""An engine's process dies, hangs or cannot be opened again: what becomes of requests, adapters and the engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from driven_engines import ENDLESS, Asked, kill, pid, ready, running
from patience import SECONDS

from landrace.errors import LandraceError, RequestError
from landrace.server.engines.process import EngineStoppedError


def test_a_killed_engine_comes_back_with_its_adapters(tiny_model: Path, tiny_adapter: Path) -> None:
    async def talk() -> None:
        async with running(tiny_model, {"tuned": tiny_adapter}) as engine:
            await engine.load_adapter("later", tiny_adapter)
            names = (None, "tuned", "later")
            before = [await Asked(engine, name).answer() for name in names]
            prints = [engine.fingerprint(name) for name in names]
            assert before[0] != before[1] == before[2]
            for _ in range(2):
                first = pid(engine)
                cut = [Asked(engine, name, ENDLESS) for name in names]
                for one in cut:
                    await one.next()
                kill(engine)
                for one in cut:
                    with pytest.raises(EngineStoppedError, match="exit code -9") as told:
                        await one.answer()
                    assert told.value.code == "engine_restarting" and (told.value.retry_after or 0) >= 1
                assert engine.state == "restarting" and engine.trouble is not None and not engine.alive
                with pytest.raises(EngineStoppedError):
                    Asked(engine)
                with pytest.raises(EngineStoppedError):
                    await engine.load_adapter("another", tiny_adapter)
                assert engine.unfinished == 0
                await ready(engine)
                assert pid(engine) != first and engine.trouble is None
                assert [await Asked(engine, name).answer() for name in names] == before
                assert [engine.fingerprint(name) for name in names] == prints
            assert (await engine.facts()).restarts == engine.restarts == 2

    asyncio.run(talk())


def template_processes() -> int:
    """Of this process, those that have not been waited for too."""
    found = 0
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            found += child.status() == psutil.STATUS_ZOMBIE or any(
                "template_worker" in part for part in child.cmdline()
            )
    return found


def test_no_template_process_is_left_behind(tiny_model: Path) -> None:
    async def talk() -> None:
        before = template_processes()
        async with running(tiny_model) as engine:
            for _ in range(2):
                template = engine.tokenizer.chat_template
                assert template is not None and "hello" in template.render([{"role": "user", "content": "hello"}])
                assert template_processes() == before + 1
                kill(engine)
                while engine.alive:
                    await asyncio.sleep(0.02)
                await ready(engine)
                async with asyncio.timeout(SECONDS):
                    while template_processes() > before:
                        await asyncio.sleep(0.02)
            engine.tokenizer.chat_template.render([{"role": "user", "content": "hello"}])  # type: ignore[union-attr]
        assert template_processes() == before

    asyncio.run(talk())


@pytest.mark.parametrize("busy", [True, False])
def test_an_engine_that_hangs_is_replaced(tiny_model: Path, busy: bool) -> None:
    async def talk() -> None:
        async with running(tiny_model, step_seconds=2.0) as engine:
            asked = Asked(engine, params=ENDLESS) if busy else None
            if asked is not None:
                await asked.next()
            kill(engine, signal.SIGSTOP)
            async with asyncio.timeout(SECONDS):
                while engine.trouble is None:
                    await asyncio.sleep(0.02)
            if asked is not None:
                with pytest.raises(EngineStoppedError, match="not heard of"):
                    await asked.answer()
            while engine.restarts == 0:
                await asyncio.sleep(0.02)
            await ready(engine)
            assert len(await Asked(engine).answer()) == 12

    asyncio.run(talk())


def test_a_step_that_never_ends(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """The process beats, and comes no further: here it reads a file that nobody writes."""
    stuck = tmp_path / "stuck"
    shutil.copytree(tiny_adapter, stuck)
    (stuck / "adapter_model.safetensors").unlink()
    os.mkfifo(stuck / "adapter_model.safetensors")

    async def talk() -> None:
        async with running(tiny_model, step_seconds=4.0) as engine:
            asked = Asked(engine, params=ENDLESS)
            await asked.next()
            with pytest.raises(EngineStoppedError, match="at one step"):
                await asyncio.wait_for(engine.load_adapter("stuck", stuck), SECONDS)
            with pytest.raises(EngineStoppedError, match="at one step"):
                await asked.answer()
            await ready(engine)
            assert not engine.adapters and len(await Asked(engine).answer()) == 12

    asyncio.run(talk())


def test_an_adapter_that_the_process_does_not_survive(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """The next process leaves it out."""
    deadly = tmp_path / "deadly"
    shutil.copytree(tiny_adapter, deadly)

    async def talk() -> None:
        async with running(tiny_model, {"tuned": tiny_adapter, "deadly": deadly}) as engine:
            first = pid(engine)
            (deadly / "adapter_model.safetensors").unlink()
            os.mkfifo(deadly / "adapter_model.safetensors")
            kill(engine)
            async with asyncio.timeout(SECONDS):
                while engine.state != "restarting" or engine._opening_adapter != "deadly":
                    await asyncio.sleep(0.02)
            assert pid(engine) != first
            kill(engine)
            await ready(engine)
            assert "ended with exit code -9" in engine.lost_adapters["deadly"].message
            assert len(await Asked(engine, "tuned").answer()) == 12

    asyncio.run(talk())


def test_adapters_that_are_gone_after_a_restart(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """They are named, and the rest is served; loading one anew brings it back."""
    gone, broken = tmp_path / "gone", tmp_path / "broken"
    shutil.copytree(tiny_adapter, gone)
    shutil.copytree(tiny_adapter, broken)

    async def talk() -> None:
        async with running(tiny_model, {"gone": gone, "tuned": tiny_adapter}) as engine:
            await engine.load_adapter("broken", broken)
            tuned = await Asked(engine, "tuned").answer()
            shutil.rmtree(gone)
            (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
            kill(engine)
            async with asyncio.timeout(SECONDS):
                while engine.restarts == 0:
                    await asyncio.sleep(0.02)
            assert set(engine.lost_adapters) == {"gone", "broken"} and set(engine.adapters) > {"gone", "broken"}
            assert await Asked(engine, "tuned").answer() == tuned
            for name in ("gone", "broken"):
                with pytest.raises(EngineStoppedError, match=name) as told:
                    Asked(engine, name)
                assert told.value.code == "adapter_lost"
            await engine.load_adapter("gone", tiny_adapter)
            assert await Asked(engine, "gone").answer() == tuned
            await engine.unload_adapter("broken")
            assert not engine.lost_adapters and set(engine.adapters) == {"gone", "tuned"}

    asyncio.run(talk())


def test_deaths_in_a_row_end_it(tiny_model: Path) -> None:
    async def talk() -> None:
        async with running(tiny_model) as engine:
            async with asyncio.timeout(SECONDS):
                while engine.failure is None:
                    if engine.state == "ready":
                        kill(engine)
                    await asyncio.sleep(0.02)
            assert engine.state == "stopped" and "exit code -9" in engine.failure
            assert engine.restarts == 4 and engine.trouble == engine.failure
            with pytest.raises(EngineStoppedError, match="once too often"):
                engine.check_alive()

    asyncio.run(talk())


def test_a_model_that_is_gone_after_a_restart(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)

    async def talk() -> None:
        async with running(model) as engine:
            (model / "config.json").rename(model / "away.json")
            kill(engine)
            async with asyncio.timeout(SECONDS):
                while len(engine._deaths._times) < 2:
                    await asyncio.sleep(0.02)
            assert engine.state == "restarting"
            (model / "away.json").rename(model / "config.json")
            await ready(engine)
            assert len(await Asked(engine).answer()) == 12

    asyncio.run(talk())


def test_an_engine_that_stops_while_it_restarts(tiny_model: Path) -> None:
    async def talk() -> None:
        async with running(tiny_model) as engine:
            kill(engine)
            async with asyncio.timeout(SECONDS):
                while engine.state != "restarting":
                    await asyncio.sleep(0.01)
            engine.give_up("The server is stopping.")
            assert engine.state == "stopped" and engine.trouble is None
            await engine.stop()
            await engine.start()
            assert len(await Asked(engine).answer()) == 12

    asyncio.run(talk())


def test_an_adapter_is_unloaded_when_nobody_uses_it(tiny_model: Path, tiny_adapter: Path) -> None:
    async def talk() -> None:
        async with running(tiny_model) as engine:
            with pytest.raises(LandraceError):
                await engine.load_adapter("tuned", tiny_adapter / "nosuch")
            with pytest.raises(LandraceError, match="no adapter called"):
                await engine.unload_adapter("tuned")
            await engine.load_adapter("tuned", tiny_adapter)
            user = Asked(engine, "tuned", ENDLESS)
            await user.next()
            unloading = asyncio.create_task(engine.unload_adapter("tuned"))
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="no adapter called"):
                Asked(engine, "tuned")
            for _ in range(20):
                await user.next()
            assert not unloading.done()
            user.leave()
            await asyncio.wait_for(unloading, SECONDS)
            assert not engine.adapters and len(await Asked(engine).answer()) == 12

    asyncio.run(talk())
