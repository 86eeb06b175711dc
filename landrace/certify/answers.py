"""What the engine generates, scored by the engine."""

from __future__ import annotations

from collections.abc import Sequence

from landrace.certify.engine_path import Adapter, engine_of
from landrace.certify.scores import Scores
from landrace.engine import EngineOptions, SamplingParams
from landrace.model import Model
from landrace.models.serving import ServingDecoder

ANSWER_TOKENS = 16

Sequences = Sequence[tuple[int, ...]]


def answers(
    model: Model[ServingDecoder], prompts: Sequences, adapter: Adapter | None
) -> tuple[list[tuple[int, ...]], list[Scores]]:
    """Each prompt with its greedy answer, and the scores of the answers, as the engine told them while it generated."""
    params = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    with engine_of(model, adapter, EngineOptions()) as complete:
        completions = complete([(ids, params) for ids in prompts])
    told = [Scores([x.logprob for x in c.logprobs], [x.top[0][0] for x in c.logprobs]) for c in completions]
    return [(*ids, *c.token_ids) for ids, c in zip(prompts, completions, strict=True)], told
