"""What the engine generates, scored by the engine and by the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from landrace.certify.certificate import Scores
from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.model import Model
from landrace.models.lora_spec import LoraSpec
from landrace.models.serving import ServingDecoder

ANSWER_TOKENS = 16

Sequences = Sequence[tuple[int, ...]]


def answer_scores(
    model: Model[ServingDecoder],
    prompts: Sequences,
    adapter: tuple[LoraSpec, Mapping[str, Tensor]] | None,
    trainer: Callable[[Sequences], list[Scores]],
) -> tuple[list[Scores], list[Scores]]:
    """The trainer's scores of each prompt with its greedy answer, and the engine's of the answers alone, as it told
    them while it generated."""
    engine = Engine(model.decoder, model.tokenizer, EngineOptions())
    name = None
    if adapter is not None:
        name = "adapter"
        engine.add_adapter(name, *adapter)
    params = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    try:
        completions = engine.generate([Request(str(i), ids, params, name) for i, ids in enumerate(prompts)])
    finally:
        if name is not None:
            engine.remove_adapter(name)
    for completion in completions:
        if completion.error is not None:
            raise completion.error
    told = [Scores([x.logprob for x in c.logprobs], [x.top[0][0] for x in c.logprobs]) for c in completions]
    return trainer([(*ids, *c.token_ids) for ids, c in zip(prompts, completions, strict=True)]), told
