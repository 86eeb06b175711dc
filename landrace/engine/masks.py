"""`Masks`: worked out beside the computation of a step, by the time that its logits are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from landrace.engine.sampler import SamplingState
from landrace.text.guides import work_out_masks


class Masks:
    """A thread that says which tokens guides allow, while kernels compute a step without the interpreter's lock. There
    is none before a guided request asks for it."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    @contextmanager
    def beside(self, states: Sequence[SamplingState]) -> Iterator[None]:
        """Around the computation of a step: afterwards these states have their masks."""
        guided = [state for state in states if state.guiding is not None and state.forced is None]
        if not guided:
            yield
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")
        done = self._thread.submit(_work_out, guided)
        try:
            yield
        finally:
            done.result()


def _work_out(states: Sequence[SamplingState]) -> None:
    walks = [state.guiding.walk for state in states if state.guiding is not None]
    work_out_masks([walk for walk in walks if walk is not None])
    for state in states:
        _ = state.mask
