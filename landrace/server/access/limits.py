"""What keys may use in a minute: buckets that refill evenly."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from landrace.server.http.errors import ApiError

_LIMITED = ("requests", "tokens")
HEADERS = tuple(f"x-ratelimit-{what}-{name}" for name in _LIMITED for what in ("limit", "remaining", "reset"))


@dataclass
class Bucket:
    """Holds what may still be used: a minute's worth at most. Times are seconds of `time.monotonic`."""

    per_minute: int
    level: float
    """Below 0 when calls took more than they were expected to."""
    filled: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> Bucket:
        return cls(per_minute, per_minute, now)

    def change(self, per_minute: int) -> None:
        """The operator has changed the limit."""
        self.level += per_minute - self.per_minute
        self.per_minute = per_minute

    def fill(self, now: float) -> None:
        self.level = min(self.per_minute, self.level + (now - self.filled) * self.per_minute / 60)
        self.filled = now

    def seconds_until(self, amount: float) -> float:
        """From when it was filled until it holds `amount`, which is at most a minute's worth."""
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


class Allowance:
    """One key's buckets. Each server has its own: several on one ledger allow as much each."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def set_limits(self, requests: int | None, tokens: int | None) -> None:
        """None: no limit. What was used of a limit that stays counts on."""
        for name, limit in zip(_LIMITED, (requests, tokens), strict=True):
            if limit is None:
                self._buckets.pop(name, None)
            elif name in self._buckets:
                self._buckets[name].change(limit)
            else:
                self._buckets[name] = Bucket.full(limit, time.monotonic())

    def take_request(self) -> None:
        """Raises ApiError (429) where the minute's requests are used up, or its tokens are."""
        now = time.monotonic()
        for name, bucket in self._buckets.items():
            bucket.fill(now)
            if bucket.level < 1:
                raise self._exceeded(name, bucket, 1)
        if "requests" in self._buckets:
            self._buckets["requests"].level -= 1

    def reserve(self, prompt_tokens: int, expected: int) -> int:
        """Takes the tokens of a prompt and of the answer that is expected to it, and returns how many it took: no more
        than a minute's. Raises ApiError: 429 where they must wait, 403 where the prompt alone is more than a minute's.
        """
        bucket = self._buckets.get("tokens")
        if bucket is None:
            return 0
        if prompt_tokens > bucket.per_minute:
            raise ApiError(
                403,
                f"The prompt has {prompt_tokens} tokens; this key may use {bucket.per_minute} a minute.",
                code="tokens_per_minute_exceeded",
            )
        amount = min(prompt_tokens + expected, bucket.per_minute)
        bucket.fill(time.monotonic())
        if bucket.level < amount:
            raise self._exceeded("tokens", bucket, amount)
        bucket.level -= amount
        return amount

    def settle(self, reserved: int, used: int) -> None:
        """A call has ended: what it used counts, not what was reserved for it."""
        bucket = self._buckets.get("tokens")
        if bucket is not None:
            bucket.fill(time.monotonic())
            bucket.level = min(bucket.per_minute, bucket.level + reserved - used)

    def headers(self) -> dict[str, str]:
        """What is left, in the words of the OpenAI API."""
        now = time.monotonic()
        found: dict[str, str] = {}
        for name, bucket in self._buckets.items():
            bucket.fill(now)
            found |= dict(_headers(name, bucket))
        return found

    def _exceeded(self, name: str, bucket: Bucket, amount: int) -> ApiError:
        wait = max(1, math.ceil(bucket.seconds_until(amount)))
        message = f"This key may use {bucket.per_minute} {name} a minute. Try again in {wait} s."
        headers = {"Retry-After": str(wait), **self.headers()}
        return ApiError(429, message, code="rate_limit_exceeded", headers=headers)


def _headers(name: str, bucket: Bucket) -> Iterator[tuple[str, str]]:
    yield f"x-ratelimit-limit-{name}", str(bucket.per_minute)
    yield f"x-ratelimit-remaining-{name}", str(max(0, math.floor(bucket.level)))
    yield f"x-ratelimit-reset-{name}", f"{bucket.seconds_until(bucket.per_minute):.3f}s"
