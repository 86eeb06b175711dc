"""Decoders that judge documents: by the logits of "yes" and "no", or by a head of their own.

The prompt is Qwen3-Reranker's, word for word as its model card has it. The query comes before the document, so what the
engine computed of it for one document serves the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landrace.embedding.texts import Encoded, encode_between
from landrace.engine import Completion, Engine, Request
from landrace.engine.readout import Pooling, Readout, TokenLogits
from landrace.errors import OptionError, RequestError
from landrace.text import Tokenizer

_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_MARKS = ("<|im_start|>", "<|im_end|>")
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""Where none is given, as the card has it."""


class _Judge:
    """What both have in common: the prompt, and the engine that reads it."""

    takes_instructions = True

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        """OptionError for a vocabulary without the marks of this prompt."""
        self._engine = engine
        self._tokenizer = tokenizer
        missing = [mark for mark in _MARKS if tokenizer.token_id(mark) not in tokenizer.special_ids]
        if missing:
            raise OptionError(
                f"The model cannot judge documents as Qwen3-Reranker does: it has no token {missing[0]}.",
                hint="Choose a reranker of that family, or a cross-encoder.",
            )
        self._before = tokenizer.encode(_BEFORE)
        self._after = tokenizer.encode(_AFTER, add_bos=False)

    def encode(self, query: str, documents: Sequence[str], instruction: str | None, *, truncate: bool) -> list[Encoded]:
        """See `Scorer`. The end of a long document is left out, never the query."""
        asked = f"<Instruct>: {INSTRUCTION if instruction is None else instruction}\n<Query>: {query}\n<Document>: "
        around = len(self._tokenizer.encode(asked, add_bos=False, parse_special=False))
        if around + len(self._before) + len(self._after) >= self._engine.max_length:
            raise RequestError(
                f"The query leaves no room for a document: the model takes {self._engine.max_length} tokens.",
                field="query",
                hint="Shorten it.",
            )
        return [
            encode_between(
                self._tokenizer,
                self._before,
                asked + document,
                self._after,
                limit=self._engine.max_length,
                truncate=truncate,
                name=f"Document {number} with the query",
            )
            for number, document in enumerate(documents, start=1)
        ]

    def _read(self, encoded: Sequence[Encoded], readouts: Sequence[Readout], adapter: str | None) -> list[Completion]:
        pairs = zip(encoded, readouts, strict=True)
        requests = [Request.reading(str(n), one.ids, readout, adapter) for n, (one, readout) in enumerate(pairs)]
        completions = self._engine.generate(requests)
        for completion in completions:
            if completion.error is not None:
                raise completion.error
        return completions


class YesNoJudge(_Judge):
    """The logit of "yes" less that of "no", as the token after the prompt: the log-odds of the two alone."""

    told = 'the logit of "yes" less that of "no", after Qwen3-Reranker\'s prompt'

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        super().__init__(engine, tokenizer)
        yes, no = tokenizer.token_id("yes"), tokenizer.token_id("no")
        if yes is None or no is None:
            raise OptionError('The model cannot judge documents: "yes" and "no" are no tokens of it.')
        self._readout = TokenLogits((yes, no))

    def scores(self, encoded: Sequence[Encoded], adapter: str | None) -> list[float]:
        """See `Scorer`."""
        found = []
        for completion in self._read(encoded, [self._readout] * len(encoded), adapter):
            assert completion.read is not None
            yes, no = completion.read.tolist()
            found.append(yes - no)
        return found


class HeadJudge(_Judge):
    """A checkpoint converted to a classifier with one label: its head's product with the last row."""

    told = "the checkpoint's score head on the last row, after Qwen3-Reranker's prompt"

    def __init__(self, engine: Engine, tokenizer: Tokenizer, weight: NDArray[np.float32]) -> None:
        """`weight`: [d_model]."""
        super().__init__(engine, tokenizer)
        self._weight = weight.astype(np.float64)

    def scores(self, encoded: Sequence[Encoded], adapter: str | None) -> list[float]:
        """See `Scorer`."""
        readouts = [Pooling.of(("last",), len(one.ids)) for one in encoded]
        rows = (completion.read for completion in self._read(encoded, readouts, adapter))
        return [float(np.add.reduce(self._weight * row)) for row in rows if row is not None]
