"""How the tokens of a step are shared out among those that run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from landrace.engine.clients import account_of, by_client, weight_of
from landrace.engine.progress import Progress

Price = Callable[[Progress], float]
"""What one token of a request counts as, 1 or more."""


def shares(
    order: Sequence[Progress], tokens: int, price: Price, served: Callable[[Progress], float]
) -> dict[Progress, int]:
    """How many of a step's `tokens` each request gets. `order`: as in `Clients.ranks`. `served`: what its client has
    had.

    Those that decode get one each. Of the rest, half goes to the first prompt of the client that has had least, so that
    every prompt ends whatever arrives. The other half is for all clients alike, and each client's part for those of it
    with least to compute, forced tokens included, so that none waits for a longer one. What one client does not need is
    for the others. Lower lanes get what is left of all that.
    """
    own = {progress: 1 for progress in order if progress.decodes}
    budget = float(tokens - len(own))

    def give(progress: Progress, most: float) -> None:
        nonlocal budget
        count = min(progress.left - own.get(progress, 0), int(most / price(progress) + 1e-9))
        own[progress] = own.get(progress, 0) + count
        budget -= count * price(progress)

    lanes: dict[int, list[Progress]] = {}
    for progress in order:
        lanes.setdefault(account_of(progress)[0], []).append(progress)
    for lane in lanes.values():
        prompts = [progress for progress in lane if not progress.decodes]
        if prompts:
            give(min(prompts, key=served), -(-budget // 2))
        _split(lane, lambda progress: (progress.left - own.get(progress, 0)) * price(progress), give, lambda: budget)
        for progress in sorted(lane, key=_left):
            give(progress, budget)
    return own


def _split(
    lane: Iterable[Progress],
    wants: Callable[[Progress], float],
    give: Callable[[Progress, float], None],
    budget: Callable[[], float],
) -> None:
    """To clients by their weights, those who want least of their part first: what they leave is for the others."""
    clients = [(weight_of(requests[0]), sum(map(wants, requests)), requests) for requests in by_client(lane)]
    total = sum(weight for weight, _, _ in clients)
    for weight, _, requests in sorted(clients, key=lambda client: client[1] / client[0]):
        end = budget() * (1 - weight / total)
        for progress in sorted(requests, key=_left):
            give(progress, budget() - end)
        total -= weight


def _left(progress: Progress) -> int:
    return progress.left
