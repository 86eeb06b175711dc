"""`VectorForm`: how vectors are made, all but the model: what it reads of a text, and what becomes of its rows.

No torch here: whoever serves a model in another process has its form beside itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from landrace.embedding.dense import Dense, Rows
from landrace.embedding.facts import Modules, PoolingFacts
from landrace.embedding.prompts import Prompt, Prompts, split_prompt
from landrace.embedding.texts import Encoded, check_texts, encode_between
from landrace.engine.readout import Pooling
from landrace.errors import PromptTooLongError, RequestError
from landrace.text import Tokenizer

_SMALLEST = 1e-12
"""Lengths are at least this when a vector is divided by its own."""


@dataclass(frozen=True)
class Manner:
    """How vectors are made: what was used, and who says so."""

    pooling: PoolingFacts
    after: tuple[Dense | None, ...]
    """What the pooled vector passes through; None: it is normalised there."""
    normalized: bool
    """Whether it has length 1 in the end."""
    dimensions: int
    """Numbers in a vector."""
    full_dimensions: int
    """Before it was cut."""
    prompt: Prompt

    @property
    def told(self) -> str:
        """In a sentence."""
        kinds = " and ".join(kind.replace("_", " ") for kind in self.pooling.kinds)
        layers = f", {sum(step is not None for step in self.after)} linear" if any(self.after) else ""
        cut = f" of {self.full_dimensions}" if self.dimensions < self.full_dimensions else ""
        length = "length 1" if self.normalized else "not normalised"
        prompt = self.prompt.said
        return (
            f"{self.dimensions}{cut} dimensions, {length}; pooled: {kinds} ({self.pooling.reason}){layers}; {prompt}."
        )


class VectorForm:
    """How a model's texts become vectors."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        modules: Modules,
        pooling: PoolingFacts,
        *,
        width: int,
        max_length: int,
        takes_instructions: bool,
        allowed_dimensions: Sequence[int] | None = None,
    ) -> None:
        """`width`: numbers in a hidden row. `max_length`: tokens that the model takes. `allowed_dimensions`: those that
        vectors may be cut to; None: any."""
        self.tokenizer = tokenizer
        self.modules = modules
        self.pooling = pooling
        self.prompts = Prompts(modules.prompts, modules.default_prompt, takes_instructions=takes_instructions)
        self._width = width
        self._allowed = allowed_dimensions
        self.max_length = min(max_length, modules.max_length or max_length)
        """Tokens of the longest text."""

    @property
    def dimensions(self) -> int:
        """Numbers in a whole vector."""
        width = self._width * len(self.pooling.kinds)
        layers = [step for step in self.modules.after if step is not None]
        return layers[-1].weight.shape[0] if layers else width

    def manner(
        self, prompt: str | None, instruction: str | None, dimensions: int | None, normalize: bool | None
    ) -> Manner:
        """How `embed` makes vectors when it is asked so. RequestError for what the model does not have."""
        full, after = self.dimensions, self.modules.after
        ends_normal = bool(after) and after[-1] is None
        if self.modules.listed:
            normal = ends_normal if normalize is None else normalize
        else:
            normal = normalize is not False
        if ends_normal:
            after = after[:-1]
        self._check_dimensions(dimensions, full)
        chosen = self.prompts.choose(prompt, instruction)
        return Manner(self.pooling, after, normal, dimensions or full, full, chosen)

    def encode(self, texts: Sequence[str], manner: Manner, *, truncate: bool) -> list[Encoded]:
        """The token ids of texts. RequestError for one that is empty, no text, or too long."""
        check_texts(texts, "Text")
        conventions = self.tokenizer.conventions
        own, rest = split_prompt(manner.prompt.text, self.tokenizer)
        before = [*conventions.prefix_ids, *own]
        return [
            encode_between(
                self.tokenizer,
                before,
                self._as_read(rest + text),
                conventions.suffix_ids,
                limit=self.max_length,
                truncate=truncate,
                name=f"Text {number}",
            )
            for number, text in enumerate(texts, start=1)
        ]

    def given(self, sequences: Sequence[Sequence[int]]) -> list[Encoded]:
        """Texts that come as token ids, which are read as they are. RequestError for one that is empty or too long."""
        for number, ids in enumerate(sequences, start=1):
            if not ids:
                raise RequestError(f"Text {number} is empty.", field="texts", hint="Leave it out.")
            if len(ids) > self.max_length:
                raise PromptTooLongError(
                    f"Text {number} has {len(ids)} tokens; the longest text that the model takes has "
                    f"{self.max_length}.",
                    field="texts",
                    hint="Shorten it.",
                )
        return [Encoded(tuple(ids), 0) for ids in sequences]

    def readout(self, encoded: Encoded, manner: Manner) -> Pooling:
        """What is read of a text for its vector, which `finished` makes of it."""
        skipped = 0 if self.pooling.include_prompt else self._prompt_tokens(manner.prompt)
        return Pooling.of(self.pooling.kinds, len(encoded.ids), skipped)

    def _as_read(self, text: str) -> str:
        return text.lower() if self.modules.lower_case else text

    def _prompt_tokens(self, prompt: Prompt) -> int:
        """Leading tokens that belong to the prompt, where there is one: those that it has alone."""
        if not prompt.text:
            return 0
        own, rest = split_prompt(prompt.text, self.tokenizer)
        prefix = self.tokenizer.conventions.prefix_ids
        return len(prefix) + len(own) + len(self.tokenizer.encode(rest, add_bos=False, parse_special=False))

    def _check_dimensions(self, asked: int | None, full: int) -> None:
        if asked is None or asked == full:
            return
        if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= full:
            raise RequestError(
                f"dimensions is {asked}; the model's vectors have {full}.",
                field="dimensions",
                hint=f"Choose a number from 1 to {full}.",
            )
        if self._allowed is not None and asked not in self._allowed:
            listed = ", ".join(map(str, self._allowed))
            raise RequestError(
                f"The model was not trained to have its vectors cut to {asked} numbers.",
                field="dimensions",
                hint=f"Its checkpoint lists {listed}.",
            )


def finished(pooled: Rows, manner: Manner) -> Rows:
    """A pooled vector as it is handed out: through what follows the pooling, cut, then normalised again."""
    vector = pooled
    for step in manner.after:
        vector = _unit(vector) if step is None else step(vector)
    vector = vector[: manner.dimensions]
    return _unit(vector) if manner.normalized else vector


def _unit(vector: Rows) -> Rows:
    exact = vector.astype(np.float64)
    length = max(float(np.sqrt(np.add.reduce(exact * exact))), _SMALLEST)
    return cast(Rows, (exact / length).astype(np.float32))
