"""The engine with a model and an adapter, for as long as a path needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from landrace.engine import Completion, Engine, EngineOptions, Request, SamplingParams
from landrace.model import Model
from landrace.models.lora_spec import LoraSpec
from landrace.models.serving import ServingDecoder

Adapter = tuple[LoraSpec, Mapping[str, Tensor]]
Complete = Callable[[Iterable[tuple[tuple[int, ...], SamplingParams]]], list[Completion]]


@contextmanager
def engine_of(model: Model[ServingDecoder], adapter: Adapter | None, options: EngineOptions) -> Iterator[Complete]:
    """Completes prompts together, in their order; a failure is raised."""
    engine = Engine(model.decoder, model.tokenizer, options)
    name = None
    if adapter is not None:
        name = "adapter"
        engine.add_adapter(name, *adapter)

    def complete(prompts: Iterable[tuple[tuple[int, ...], SamplingParams]]) -> list[Completion]:
        requests = [Request(str(i), ids, params, name) for i, (ids, params) in enumerate(prompts)]
        completions = engine.generate(requests)
        for completion in completions:
            if completion.error is not None:
                raise completion.error
        return completions

    try:
        yield complete
    finally:
        if name is not None:
            engine.remove_adapter(name)
