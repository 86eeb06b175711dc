"""`Clients`: whose turn it is among those who share an engine. Bookkeeping only, without torch.

Every client has an account of the tokens that were computed for it, and whoever has had least comes next. That is
start-time fair queueing (Goyal, Vin and Cheng, 1996), in the form for requests whose cost shows only once they have
ended: the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", 2024. Clients that always
have work get equally many tokens, up to those of a step and of the requests that they start at once; one that has had
none for a while begins where the others are, so that idling earns nothing.

A priority from 0 on gives a client a share 1 + priority times as large. Priorities below 0 are lanes: a request has
what those of higher lanes leave. Each lane has accounts of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace

from landrace.engine.progress import Progress

Account = tuple[int, str]
"""A lane, 0 or less, and a client."""
Rank = tuple[int, int]
"""How far back somebody stands: lanes above its own, and those of its client that go first. The least is first."""


def account_of(progress: Progress) -> Account:
    return min(progress.request.priority, 0), progress.request.client


def weight_of(progress: Progress) -> int:
    """How large its client's share is."""
    return 1 + max(progress.request.priority, 0)


class Clients:
    """The accounts of one engine's clients."""

    def __init__(self) -> None:
        self._served: dict[Account, float] = {}
        """Tokens, each divided by the weight of its request."""
        self._started: defaultdict[int, float] = defaultdict(float)
        """By lane: the most that a client had had when one of its requests started. Who has nothing waiting begins
        there, or where the least of the others is."""
        self._present: Counter[Account] = Counter()
        self._running: Counter[Account] = Counter()

    def arrive(self, progress: Progress, waiting: Iterable[Progress]) -> None:
        """A request joins those that wait."""
        account = account_of(progress)
        self._present[account] += 1
        served = self._served.setdefault(account, 0.0)
        if all(account_of(other) != account for other in waiting):
            others = [self._served[one] for one in self._present if one[0] == account[0] and one != account]
            self._served[account] = max(served, self._started[account[0]], min(others, default=0.0))

    def leave(self, progress: Progress) -> None:
        """A request has ended. Whoever is gone, and would begin anew as it stands, is forgotten; where nobody is left,
        all are."""
        lane = account_of(progress)[0]
        self._present[account_of(progress)] -= 1
        self._present = +self._present
        if all(account[0] != lane for account in self._present):
            had = [served for account, served in self._served.items() if account[0] == lane]
            self._started[lane] = max(self._started[lane], *had)
        for account in [account for account in self._served if account not in self._present]:
            if self._served[account] <= self._started[account[0]]:
                del self._served[account]

    def start(self, progress: Progress) -> None:
        """A request joins those that run."""
        account = account_of(progress)
        self._started[account[0]] = max(self._started[account[0]], self._served[account])

    def charge(self, progress: Progress, tokens: int) -> None:
        """So many are computed for it."""
        self._served[account_of(progress)] += tokens / weight_of(progress)

    def served(self, progress: Progress) -> float:
        """What its client has had."""
        return self._served[account_of(progress)]

    def in_turn(self, waiting: Iterable[Progress], running: Iterable[Progress]) -> Iterator[Progress]:
        """Those that wait, in the order in which they should start: lane by lane, and each client's next one once that
        client has had, or is to have for those that were named before, no more than the others.

        `waiting` is in order of arrival. A client's own come by priority.
        """
        queues: defaultdict[Account, list[Progress]] = defaultdict(list)
        for progress in waiting:
            queues[account_of(progress)].append(progress)
        claims = self._claims(queues, running)
        heap = []
        for account, queue in queues.items():
            queue.sort(key=lambda progress: -progress.request.priority)
            heap.append((-account[0], claims[account], queue[0].place, account, 0))
        heapify(heap)
        while heap:
            lane, claim, _, account, index = heap[0]
            queue = queues[account]
            yield queue[index]
            if index + 1 == len(queue):
                heappop(heap)
            else:
                claim += queue[index].held / weight_of(queue[index])
                heapreplace(heap, (lane, claim, queue[index + 1].place, account, index + 1))

    def ranks(self, running: Iterable[Progress]) -> dict[Progress, Rank]:
        """Those that run, first the one that keeps longest what it holds: by lane, and within one first the first of
        each client, then the second of each; equal ones by arrival. So whoever has most loses first, and a client with
        one request alone loses nothing to another's second."""
        depth = self._running = Counter[Account]()
        found = []
        for progress in sorted(running, key=lambda progress: (-progress.request.priority, progress.place)):
            account = account_of(progress)
            found.append((-account[0], depth[account], progress.place, progress))
            depth[account] += 1
        return {progress: (lane, n) for lane, n, _, progress in sorted(found)}

    def next_rank(self, progress: Progress) -> Rank:
        """Where one that waits would stand beside those whose ranks were asked for last."""
        account = account_of(progress)
        return -account[0], self._running[account]

    def _claims(self, accounts: Iterable[Account], running: Iterable[Progress]) -> dict[Account, float]:
        """What clients have had and what their running requests are still to have."""
        claims = {account: self._served[account] for account in accounts}
        for progress in running:
            account = account_of(progress)
            if account in claims:
                claims[account] += progress.left / weight_of(progress)
        return claims


def by_client(requests: Iterable[Progress]) -> list[Sequence[Progress]]:
    """Those of each client."""
    found: defaultdict[Account, list[Progress]] = defaultdict(list)
    for progress in requests:
        found[account_of(progress)].append(progress)
    return list(found.values())
