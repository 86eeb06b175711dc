"""`Embedder`: texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landrace.embedding.reading import ReadingEngine, read
from landrace.embedding.vector_form import Manner, VectorForm, finished

BATCH = 64

Report = Callable[[int, int], None]
"""Called with texts done and texts in all."""


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

    def __init__(self, form: VectorForm, engine: ReadingEngine, *, notice: str | None = None) -> None:
        """`engine` may serve other requests at other times. `notice`: what the user should know about how the model is
        served."""
        self.form = form
        self.engine = engine
        self.notice = notice

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
        form = self.form
        manner = form.manner(prompt, instruction, dimensions, normalize)
        encoded = form.encode(texts, manner, truncate=truncate)
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(encoded), batch):
            some = encoded[start : start + batch]
            pooled = read(self.engine, [(one.ids, form.readout(one, manner)) for one in some], adapter)
            vectors += [finished(vector, manner) for vector in pooled]
            if report is not None:
                report(len(vectors), len(encoded))
        return Embeddings(
            np.stack(vectors) if vectors else np.zeros((0, manner.dimensions), np.float32),
            tuple(len(one.ids) for one in encoded),
            tuple(one.cut for one in encoded),
            manner,
        )
