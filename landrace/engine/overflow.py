"""Going on with a sequence that is as long as a sequence may be: without the oldest part of it.

What is left is a request of its own, computed from its first token on. So its next token is what a fresh run over the
same tokens says, and nothing in the cache has to be turned to other positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from landrace.engine.options import EngineOptions
from landrace.engine.progress import Progress
from landrace.engine.request import Request


def without_the_oldest(tokens: Sequence[int], keep: int, most: int) -> list[int]:
    """At most `most` tokens: the first `keep` and, of those behind them, the newer half, halved until they fit."""
    first, rest = tokens[:keep], tokens[keep:]
    while len(first) + len(rest) > most:
        rest = rest[(len(rest) + 1) // 2 :]
    return [*first, *rest]


def begun(request: Request, root: bytes, options: EngineOptions, max_length: int) -> Progress:
    """Where a request begins: with less of its prompt, if it leaves no room for a token and that is wanted."""
    prompt = request.prompt_ids
    shifts = options.shifts and request.readout is None
    kept = without_the_oldest(prompt, options.context_keep, max_length - 1) if shifts else prompt
    progress = Progress(request if len(kept) == len(prompt) else replace(request, prompt_ids=tuple(kept)), root)
    progress.dropped = len(prompt) - len(kept)
    return progress


def continued(progress: Progress, options: EngineOptions, max_length: int) -> Progress:
    """A request with room for another token, and with as many to come as it still may have."""
    old = progress.request
    kept = without_the_oldest(progress.tokens, options.context_keep, max_length - 1)
    params = replace(old.params, max_tokens=old.params.max_tokens - progress.n_output, prompt_logprobs_from=None)
    then = Progress(replace(old, prompt_ids=tuple(kept), params=params), progress.root)
    then.dropped = progress.dropped + progress.held - len(kept)
    then.arrived, then.admitted, then.prefix_hit = progress.arrived, progress.admitted, progress.prefix_hit
    return then
