"""`SamplingParams`: how one request wants its tokens chosen and when it wants them to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from landrace.errors import RequestError

MAX_STOP_STRINGS = 32
MAX_STOP_LENGTH = 256
MIN_TEMPERATURE = 1e-5
MIN_REPETITION_PENALTY = 1e-5
"""Logits are divided by either: less would take them out of float32's range."""


@dataclass(frozen=True)
class SamplingParams:
    """Every field is checked when the object is made; a value that cannot be honoured raises RequestError(field=...).

    A token's logits pass, in this order: repetition penalty, presence and frequency penalties, logit bias,
    temperature, top-k, top-p, min-p (see `sampler.py` for each formula).
    """

    max_tokens: int = 256
    """Most tokens to generate; 0 only with `prompt_logprobs_from`."""
    temperature: float = 1.0
    """0: greedy."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Counts the prompt and the output."""
    presence_penalty: float = 0.0
    """Counts the output only, like `frequency_penalty`."""
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    """None: a random seed, reported with the outputs."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    thinking_budget: int | None = None
    """Most tokens of thoughts before an answer; then they are ended as the model's family ends them. None: any number.
    Only for a request with an answer form that knows thoughts."""
    logprobs: int | None = None
    """None: none. n: the chosen token's and those of the n most likely tokens, for every generated token."""
    prompt_logprobs_from: int | None = None
    """Score the prompt's tokens from this index on (at least 1: the first token has nothing before it)."""

    def __post_init__(self) -> None:
        _integer("max_tokens", self.max_tokens, 0, 2**31)
        _number("temperature", self.temperature, 0.0, 100.0)
        _integer("top_k", self.top_k, 0, 2**31)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, 100.0)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise RequestError(f"temperature must be 0 (greedy) or at least {MIN_TEMPERATURE:g}.", field="temperature")
        if self.top_p == 0:
            raise RequestError("top_p must be greater than 0.", field="top_p")
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, 2**31)
        if self.prompt_logprobs_from is not None:
            _integer("prompt_logprobs_from", self.prompt_logprobs_from, 1, 2**31)
        elif self.max_tokens == 0:
            raise RequestError(
                "max_tokens must be at least 1 when no prompt logprobs are asked for.", field="max_tokens"
            )
        if self.thinking_budget is not None:
            _integer("thinking_budget", self.thinking_budget, 0, 2**31)
        if not isinstance(self.ignore_eos, bool):
            raise RequestError("ignore_eos must be true or false.", field="ignore_eos")
        self._check_bias()
        self._check_stop()

    @property
    def penalised(self) -> bool:
        """Whether the tokens seen so far change the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def _check_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise RequestError("logit_bias must map token ids to numbers.", field="logit_bias")
        for token, bias in self.logit_bias.items():
            _integer("logit_bias", token, 0, 2**31)
            _number("logit_bias", bias, -100.0, 100.0)

    def _check_stop(self) -> None:
        if not isinstance(self.stop, tuple | list) or not all(isinstance(text, str) for text in self.stop):
            raise RequestError("stop must be a list of strings.", field="stop")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(
                f"stop has {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed.", field="stop"
            )
        if not all(1 <= len(text) <= MAX_STOP_LENGTH for text in self.stop):
            raise RequestError(f"Each stop string must have 1 to {MAX_STOP_LENGTH} characters.", field="stop")
        if not isinstance(self.stop_token_ids, tuple | list):
            raise RequestError("stop_token_ids must be a list of token ids.", field="stop_token_ids")
        for token in self.stop_token_ids:
            _integer("stop_token_ids", token, 0, 2**31)


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}.", field=name)


def _number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, not {shown(value)}.", field=name)


def shown(value: object) -> str:
    """A value from outside, of readable length: Python refuses to write out an integer of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
