"""`Opener`: which models are open, in the memory there is for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence

from landrace.errors import LandraceError, OptionError
from landrace.server.engines.budget import MemoryBudget
from landrace.server.engines.describing import describe, usual_share
from landrace.server.engines.hosted import Hosted
from landrace.server.engines.process import EngineBusyError, EngineStoppedError

_RETRY_SECONDS = 10
"""So long a model that could not be opened is not tried again, and clients are told to stay away."""
_LOOK_SECONDS = 0.1
"""How often one that waits for room looks whether the others are still in use."""
_log = logging.getLogger(__name__)


class Opener:
    """Opens models when they are asked for. Those that were used longest ago go first when another needs their room,
    and none goes that is in use."""

    def __init__(
        self, *, on_demand: Collection[str] = (), memory: int | None = None, wait_seconds: float = 120
    ) -> None:
        """`on_demand`: names of models that are not opened at the start. `memory`: bytes for all models; None: the
        usual share of the machine's. `wait_seconds`: how long a call waits for its model."""
        self._on_demand = on_demand
        self._memory = memory
        self._wait_seconds = wait_seconds
        self._budget = MemoryBudget(0)
        self._in_main_memory = True
        self._bases: dict[str, Hosted] = {}
        self._unloading = asyncio.Lock()
        self._stopped: EngineStoppedError | None = None

    @property
    def memory(self) -> int:
        """Bytes for all models; known once started."""
        return self._budget.total

    def memory_of(self, base: Hosted) -> int:
        """Bytes that are kept for a model that is open or being opened; 0 for any other."""
        return self._budget.held_by(base.name)

    async def start(self, bases: Sequence[Hosted]) -> None:
        """Finds out what the models need and opens those that are not on demand, in order, as long as they fit.

        Raises the LandraceError of one that cannot be opened, or that does not fit alone.
        """
        self._bases = {base.name: base for base in bases}
        at_start = [base for base in bases if base.name not in self._on_demand]
        # The first is opened while all are looked at: if it does not fit, it is not the only thing that ends.
        tasks = [asyncio.create_task(self._describe(bases))]
        tasks += [asyncio.create_task(base.open(strict=True)) for base in at_start[:1]]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in reversed(tasks):
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for base in at_start:
            if self._budget.take(base.name, base.n_bytes):
                if not base.is_open:
                    await base.open(strict=True)
                if not await self._fits(base):
                    await self._close(base)

    async def ready(self, base: Hosted) -> None:
        """Returns when the model is open, for whoever has taken it. Raises EngineBusyError where as many wait as may,
        and EngineStoppedError where it takes too long or could not be opened just now."""
        self._budget.use(base.name)
        if base.is_open:
            return
        self._check(base)
        if base.waiting >= base.max_pending:
            raise EngineBusyError(f"As many calls wait for the model {base.name} as the server accepts.")
        if base.opening is None:
            base.opening = asyncio.create_task(self._open(base))
        base.waiting += 1
        try:
            await asyncio.wait({base.opening}, timeout=self._wait_seconds)
        finally:
            base.waiting -= 1
        if not base.is_open:
            self._check(base)
            doing = "is still being opened" if self.memory_of(base) else "waits for memory that other models use"
            raise _not_available(f"The model {base.name} {doing}. Try again shortly.")

    def left(self, base: Hosted) -> None:
        """Whoever had taken it has left it just now."""
        base.leave()
        self._budget.use(base.name)

    def give_up(self, reason: str) -> None:
        """Opens nothing any more, and ends every wait."""
        self._stopped = self._stopped or EngineStoppedError(reason)
        for base in self._bases.values():
            if base.opening is not None:
                base.opening.cancel()

    async def stop(self) -> None:
        """After `give_up`: closes every model. What still runs is lost."""
        opening = [base.opening for base in self._bases.values() if base.opening is not None]
        await asyncio.gather(*opening, return_exceptions=True)
        for base in self._bases.values():
            if base.is_open:
                await self._close(base)

    async def _describe(self, bases: Sequence[Hosted]) -> None:
        described = await describe([base.settings for base in bases])
        self._budget = MemoryBudget(self._memory or usual_share(described.memory))
        self._in_main_memory = described.in_main_memory
        for base, told in zip(bases, described.models, strict=True):
            if isinstance(told, LandraceError):
                raise told
            base.description, base.n_bytes = told, told.n_bytes
            self._check_size(base)

    async def _open(self, base: Hosted) -> None:
        try:
            while not base.is_open:
                await self._make_room(base)
                await base.open(strict=False)
                if not await self._fits(base):  # it takes more than its files told: with the room for that, then
                    await self._close(base)
        except LandraceError as error:
            base.fail(error)
        except Exception as error:  # noqa: BLE001  told as what the model's own errors are
            _log.exception("The model %s could not be opened.", base.name)
            base.fail(LandraceError(f"{type(error).__name__}: {error}"))
        finally:
            if not base.is_open:
                self._budget.give_back(base.name)
            base.opening = None

    async def _make_room(self, base: Hosted) -> None:
        """Takes what the model needs, once enough of the others are idle."""
        self._check_size(base)
        while True:
            async with self._unloading:
                while (name := self._budget.to_unload(base.n_bytes, self._idle())) is not None:
                    await self._close(self._bases[name])
                if self._budget.take(base.name, base.n_bytes):
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    def _idle(self) -> set[str]:
        return {base.name for base in self._bases.values() if base.idle}

    async def _close(self, base: Hosted) -> None:
        await base.close()
        self._budget.give_back(base.name)

    async def _fits(self, base: Hosted) -> bool:
        """Whether what an open model takes of main memory is there, besides what the others have."""
        if self._in_main_memory:
            base.n_bytes = max(base.n_bytes, (await base.engine.facts()).resident_bytes)
        return self._budget.take(base.name, base.n_bytes)

    def _check_size(self, base: Hosted) -> None:
        if base.n_bytes > self._budget.total:
            raise OptionError(
                f"{base.name} needs about {_gib(base.n_bytes)} of memory, and models may take "
                f"{_gib(self._budget.total)} here.",
                hint="Raise --memory, lower --cache-tokens, or hold it as --weights int4.",
            )

    def _check(self, base: Hosted) -> None:
        if self._stopped is not None:
            raise self._stopped
        if base.failure is not None and time.monotonic() < base.failed_at + _RETRY_SECONDS:
            raise _not_available(f"The model {base.name} could not be opened: {base.failure.message}")


def _not_available(message: str) -> EngineStoppedError:
    return EngineStoppedError(message, code="model_not_available", retry_after=_RETRY_SECONDS)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"
