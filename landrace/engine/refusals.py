"""Requests that can never be served, known before their first step."""

from __future__ import annotations

from landrace.engine.options import EngineOptions
from landrace.engine.readout import check_readout
from landrace.engine.request import Request
from landrace.engine.sampling_params import shown
from landrace.errors import PromptTooLongError, RequestError


def check_request(request: Request, vocab_size: int, max_length: int, options: EngineOptions) -> None:
    """Raises RequestError, which names the field, for a model with so many tokens and sequences of so many."""
    params, n_prompt = request.params, len(request.prompt_ids)
    if n_prompt == 0:
        raise RequestError("The prompt is empty.", field="prompt")
    goes_on = options.shifts and params.prompt_logprobs_from is None and request.readout is None
    if n_prompt + min(request.max_tokens, 1) > max_length and not goes_on:
        cure = " or raise cache_tokens" if max_length == options.cache_room else ""
        raise PromptTooLongError(
            f"The maximum context length is {max_length} tokens, answer included; the prompt has {n_prompt}.",
            field="prompt",
            hint=f"Shorten the prompt{cure}.",
        )
    if request.readout is not None:
        check_readout(request.readout, n_prompt, vocab_size)
    for field, ids in (
        ("prompt", request.prompt_ids),
        ("stop_token_ids", params.stop_token_ids),
        ("logit_bias", tuple(params.logit_bias)),
    ):
        wrong = next((t for t in ids if not isinstance(t, int) or not 0 <= t < vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"{field} names the token {shown(wrong)}; the model has 0 to {vocab_size - 1}.", field=field
            )
    if params.thinking_budget is not None and (request.answer is None or request.answer.grammar.thought is None):
        raise RequestError(
            "thinking_budget needs a chat with a model that thinks, and this model's template shows no thoughts.",
            field="thinking_budget",
            hint="Leave it out.",
        )
    if params.logprobs is not None and params.logprobs > vocab_size:
        raise RequestError(f"logprobs is {params.logprobs}; the model has {vocab_size} tokens.", field="logprobs")
    if params.prompt_logprobs_from is not None and params.prompt_logprobs_from >= n_prompt:
        raise RequestError(
            f"prompt_logprobs_from is {params.prompt_logprobs_from}, but the prompt has {n_prompt} tokens.",
            field="prompt_logprobs_from",
        )
