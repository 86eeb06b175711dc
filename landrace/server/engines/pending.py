"""`Pending`: how many unfinished requests an engine takes, and from whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from landrace.engine.request import Request
from landrace.errors import RequestError


class Pending:
    """The unfinished requests of one engine, at most `most`.

    A client with a name may have no more of them than there is room for after it: one alone half of `most`, two a third
    each, and so on, so that there always is room for somebody else (the dynamic threshold of Choudhury and Hahne,
    "Dynamic queue length thresholds for shared-memory packet switches", 1998).
    Those without a name are nobody in particular, and have no such bound.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._client_of: dict[str, str] = {}
        self._count: Counter[str] = Counter()

    def refusal(self, requests: Sequence[Request]) -> str | None:
        """Why there is no room for these, which are of one client, just now. Raises RequestError where there never
        is."""
        n, client = len(requests), requests[0].client
        if client and 2 * n > self.most:
            raise RequestError(
                f"The call asks for {n} answers; the server takes {self.most // 2} of one client at once.", field="n"
            )
        room = self.most - len(self._client_of) - n
        if room < 0:
            return "The server has as many requests waiting as it accepts."
        if client and self._count[client] + n > room:
            return "The server has as many requests of this client waiting as it accepts."
        return None

    def add(self, request: Request) -> None:
        self._client_of[request.id] = request.client
        self._count[request.client] += 1

    def remove(self, request_id: str) -> None:
        client = self._client_of.pop(request_id)
        self._count[client] -= 1
        if not self._count[client]:
            del self._count[client]
