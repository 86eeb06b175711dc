"""`Embedder`: texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from landrace.embedding.dense import Dense
from landrace.embedding.modules import Modules, PoolingFacts
from landrace.embedding.prompts import Prompt, Prompts, split_prompt
from landrace.embedding.sources import Rows, VectorSource
from landrace.embedding.texts import Encoded, check_texts, encode_between
from landrace.errors import RequestError
from landrace.text import Tokenizer

BATCH = 64
_SMALLEST = 1e-12
"""Lengths are at least this when a vector is divided by its own."""

Report = Callable[[int, int], None]
"""Called with texts done and texts in all."""


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


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts, in the order of the texts."""

    vectors: NDArray[np.float32]
    """[N, dimensions]."""
    tokens: tuple[int, ...]
    """Of each text, with its prompt and what the model adds."""
    cut_tokens: tuple[int, ...]
    """Of each text, what was left out because it is too long."""
    manner: Manner

    @property
    def truncated(self) -> int:
        """How many texts were cut."""
        return sum(cut > 0 for cut in self.cut_tokens)


class Embedder:
    """An opened model, and what its checkpoint says of vectors.

    A vector's bits depend on its text alone on the C++ kernels: not on the other texts, the batch or the threads.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: VectorSource,
        modules: Modules,
        pooling: PoolingFacts,
        *,
        takes_instructions: bool,
        allowed_dimensions: Sequence[int] | None = None,
        notice: str | None = None,
    ) -> None:
        """`allowed_dimensions`: those that vectors may be cut to; None: any. `notice`: what the user should know about
        how the model is served."""
        self.notice = notice
        self.tokenizer = tokenizer
        self.source = source
        self.modules = modules
        self.pooling = pooling
        self.prompts = Prompts(modules.prompts, modules.default_prompt, takes_instructions=takes_instructions)
        self._allowed = allowed_dimensions
        self.max_length = min(source.max_length, modules.max_length or source.max_length)
        """Tokens of the longest text."""

    @property
    def dimensions(self) -> int:
        """Numbers in a whole vector."""
        width = self.source.width * len(self.pooling.kinds)
        layers = [step for step in self.modules.after if step is not None]
        return layers[-1].weight.shape[0] if layers else width

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool = False,
        adapter: str | None = None,
        batch: int = BATCH,
        report: Report | None = None,
    ) -> Embeddings:
        """The vectors of texts.

        `prompt`: the name of one of the checkpoint's, or a text of several words to put before each; None: its default.
        `instruction`: what the texts, then queries, search for, in the model's form. `dimensions`: the first so many
        numbers of each vector, for models that were trained to be cut. `normalize`: to length 1, after the cut; None:
        as the checkpoint says. `truncate`: leave out the end of texts that are too long, which are errors otherwise.

        Raises RequestError for texts, prompts and dimensions that cannot be served.
        """
        manner = self.manner(prompt, instruction, dimensions, normalize)
        encoded = self.encode(texts, manner, truncate=truncate)
        skipped = 0 if self.pooling.include_prompt else self._prompt_tokens(manner.prompt)
        vectors: list[Rows] = []
        for start in range(0, len(encoded), batch):
            ids = [one.ids for one in encoded[start : start + batch]]
            pooled = self.source.pooled(ids, self.pooling.kinds, skipped, adapter)
            vectors += [finished(vector, manner) for vector in pooled]
            if report is not None:
                report(len(vectors), len(encoded))
        return Embeddings(
            np.stack(vectors) if vectors else np.zeros((0, manner.dimensions), np.float32),
            tuple(len(one.ids) for one in encoded),
            tuple(one.cut for one in encoded),
            manner,
        )

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
