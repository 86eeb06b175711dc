"""Keys as the event loop asks for them: read from the ledger by threads, remembered for seconds."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from landrace.ledger.keys import Key, Spent
from landrace.ledger.records import utc_now
from landrace.server.http.errors import ApiError

_REMEMBERED_SECONDS = 5.0
"""How long a key goes on after it was revoked, or a limit after it was changed."""
_MOST_REMEMBERED = 4096
_MOST_WAITING = 256
"""Look-ups at once. Whoever guesses keys cannot fill the memory."""
_PATIENCE_SECONDS = 10.0
_THREADS = 2
_UNREACHABLE = "Keys cannot be checked at the moment; try again shortly."

_log = logging.getLogger(__name__)
T = TypeVar("T")


class KeyBook(Protocol):
    """What is asked of the ledger."""

    def key_of(self, secret: str) -> Key | None: ...

    def spent(self, key_id: str, since: datetime) -> Spent: ...


class KeyDesk:
    """Finds keys, and what they have spent. Belongs to one event loop."""

    def __init__(self, book: KeyBook) -> None:
        self._book = book
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="keys")
        self._keys: _Remembered[Key | None] = _Remembered(self._threads)
        self._spent: _Remembered[Spent] = _Remembered(self._threads)
        self._pepper = secrets.token_bytes(32)

    async def find(self, secret: str) -> Key:
        """Raises ApiError: 401 for a key that does not count, and 503 where the ledger cannot be read."""
        # Remembered under a keyed hash: no secret stays in memory, and how long a look-up takes tells nothing of any.
        name = hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), key=self._pepper).digest()
        key = await self._keys.get(name, lambda: self._book.key_of(secret))
        if key is None or not key.is_valid(utc_now()):
            raise unauthorized("This key is not known here, has expired, or was revoked.", "invalid_api_key")
        return key

    async def spent_this_month(self, key: Key) -> Spent:
        """Since the month began, in UTC. Raises ApiError (503)."""
        since = utc_now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return await self._spent.get(f"{key.id} {since}".encode(), lambda: self._book.spent(key.id, since))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def unauthorized(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})


class _Remembered(Generic[T]):
    """Values by name, each looked up once, by a thread, for all who ask for it at the same time."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._values: OrderedDict[bytes, tuple[T, float]] = OrderedDict()
        self._coming: dict[bytes, asyncio.Future[T]] = {}

    async def get(self, name: bytes, look_up: Callable[[], T]) -> T:
        value, until = self._values.get(name, (None, 0.0))
        if time.monotonic() < until:
            return value  # type: ignore[return-value]
        if name not in self._coming:
            if len(self._coming) >= _MOST_WAITING:
                raise _unreachable()
            coming = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
            coming.add_done_callback(lambda done: self._take(name, done))
            self._coming[name] = coming
        try:
            # Shielded: whoever goes away leaves the look-up to the others.
            return await asyncio.wait_for(asyncio.shield(self._coming[name]), _PATIENCE_SECONDS)
        except Exception as error:  # whatever it is, a key that was not checked opens nothing
            _log.error("The ledger could not be asked for a key: %s: %s", type(error).__name__, error)
            raise _unreachable() from error

    def _take(self, name: bytes, done: asyncio.Future[T]) -> None:
        del self._coming[name]
        if done.cancelled() or done.exception() is not None:
            return
        self._values[name] = (done.result(), time.monotonic() + _REMEMBERED_SECONDS)
        self._values.move_to_end(name)
        if len(self._values) > _MOST_REMEMBERED:
            self._values.popitem(last=False)


def _unreachable() -> ApiError:
    return ApiError(503, _UNREACHABLE, code="keys_unavailable", headers={"Retry-After": "2"})
