"""Judges: what a model reads of a query with a document, and which score becomes of that. No torch here.

Decoders are asked for "yes" or "no", or have a head of their own; their prompt is Qwen3-Reranker's, word for word as
its model card has it. The query comes before the document, so what the engine computed of it for one document serves
the others. Cross-encoders read both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from landrace.embedding.dense import Rows, sigmoid
from landrace.embedding.texts import Encoded, check_texts, encode_between
from landrace.engine.readout import Labels, Pooling, Readout, TokenLogits
from landrace.errors import OptionError, PromptTooLongError, RequestError
from landrace.text import Tokenizer

Activation = Literal["sigmoid", "identity"]

_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_MARKS = ("<|im_start|>", "<|im_end|>")
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""Where none is given, as the card has it."""


class Judge(Protocol):
    """How a model judges a document by a query."""

    told: str
    """How, in words."""
    takes_instructions: bool

    def encode(self, query: str, documents: Sequence[str], instruction: str | None, *, truncate: bool) -> list[Encoded]:
        """What the model reads of each document. PromptTooLongError for one that is too long."""
        ...

    def readout(self, encoded: Encoded) -> Readout:
        """What is read of it."""
        ...

    def score(self, read: Rows) -> float:
        """What that comes to, before the activation."""
        ...


@dataclass(frozen=True)
class ScoreForm:
    """How a model's scores are made: everything but the model."""

    judge: Judge
    activation: Activation

    @property
    def told(self) -> str:
        """In a sentence."""
        return f"{self.judge.told}; {'sigmoid' if self.activation == 'sigmoid' else 'no activation'}."

    def encode(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, truncate: bool = False
    ) -> list[Encoded]:
        """What the model reads of each document. RequestError for texts that are empty or, unless `truncate` cuts the
        documents, too long, and for an instruction where the model takes none."""
        check_texts([query], "Query")
        check_texts(documents, "Document")
        if instruction is not None and not self.judge.takes_instructions:
            raise RequestError("This model takes no instruction.", field="instruction", hint="Leave --instruction out.")
        if instruction is not None and not instruction.strip():
            raise RequestError("The instruction is empty.", field="instruction", hint="Leave --instruction out.")
        return self.judge.encode(query, documents, instruction, truncate=truncate)

    def readout(self, encoded: Encoded) -> Readout:
        """What is read of a query with a document."""
        return self.judge.readout(encoded)

    def score(self, read: Rows) -> float:
        """The score of what was read."""
        raw = self.judge.score(read)
        return sigmoid(raw) if self.activation == "sigmoid" else raw


class _Asked:
    """What both kinds of decoder have in common: the prompt."""

    takes_instructions = True

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        """OptionError for a vocabulary without the marks of this prompt."""
        self._tokenizer = tokenizer
        self._max_length = max_length
        missing = [mark for mark in _MARKS if tokenizer.token_id(mark) not in tokenizer.special_ids]
        if missing:
            raise OptionError(
                f"The model cannot judge documents as Qwen3-Reranker does: it has no token {missing[0]}.",
                hint="Choose a reranker of that family, or a cross-encoder.",
            )
        self._before = tokenizer.encode(_BEFORE)
        self._after = tokenizer.encode(_AFTER, add_bos=False)

    def encode(self, query: str, documents: Sequence[str], instruction: str | None, *, truncate: bool) -> list[Encoded]:
        """See `Judge`. The end of a long document is left out, never the query."""
        asked = f"<Instruct>: {INSTRUCTION if instruction is None else instruction}\n<Query>: {query}\n<Document>: "
        around = len(self._tokenizer.encode(asked, add_bos=False, parse_special=False))
        if around + len(self._before) + len(self._after) >= self._max_length:
            raise RequestError(
                f"The query leaves no room for a document: the model takes {self._max_length} tokens.",
                field="query",
                hint="Shorten it.",
            )
        return [
            encode_between(
                self._tokenizer,
                self._before,
                asked + document,
                self._after,
                limit=self._max_length,
                truncate=truncate,
                name=f"Document {number} with the query",
            )
            for number, document in enumerate(documents, start=1)
        ]


class YesNoJudge(_Asked):
    """The logit of "yes" less that of "no", as the token after the prompt: the log-odds of the two alone."""

    told = 'the logit of "yes" less that of "no", after Qwen3-Reranker\'s prompt'

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        yes, no = tokenizer.token_id("yes"), tokenizer.token_id("no")
        if yes is None or no is None:
            raise OptionError('The model cannot judge documents: "yes" and "no" are no tokens of it.')
        self._readout = TokenLogits((yes, no))

    def readout(self, encoded: Encoded) -> Readout:
        """See `Judge`."""
        return self._readout

    def score(self, read: Rows) -> float:
        """See `Judge`."""
        yes, no = read.tolist()
        return float(yes - no)


class HeadJudge(_Asked):
    """A checkpoint converted to a classifier with one label: its head's product with the last row."""

    told = "the checkpoint's score head on the last row, after Qwen3-Reranker's prompt"

    def __init__(self, tokenizer: Tokenizer, max_length: int, weight: NDArray[np.float32]) -> None:
        """`weight`: [d_model]."""
        super().__init__(tokenizer, max_length)
        self._weight = weight.astype(np.float64)

    def readout(self, encoded: Encoded) -> Readout:
        """See `Judge`."""
        return Pooling.of(("last",), len(encoded.ids))

    def score(self, read: Rows) -> float:
        """See `Judge`."""
        return float(np.add.reduce(self._weight * read))


class PairJudge:
    """A cross-encoder: its classifier on the query and the document, read together."""

    told = "the checkpoint's classifier on the query with the document"
    takes_instructions = False

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length

    def encode(self, query: str, documents: Sequence[str], instruction: str | None, *, truncate: bool) -> list[Encoded]:
        """See `Judge`. Of texts that are too long together, the longer one loses its end."""
        limit = self._max_length
        found = []
        for number, document in enumerate(documents, start=1):
            ids, types = self._tokenizer.encode_pair(query, document)
            cut = max(0, len(ids) - limit)
            if cut and not truncate:
                raise PromptTooLongError(
                    f"Document {number} with the query has {len(ids)} tokens; the model takes {limit}.",
                    field="texts",
                    hint="Shorten it, or cut it at the limit with --truncate (truncate=True).",
                )
            if cut:
                ids, types = self._tokenizer.encode_pair(query, document, max_length=limit)
            found.append(Encoded(tuple(ids), cut, tuple(types)))
        return found

    def readout(self, encoded: Encoded) -> Readout:
        """See `Judge`."""
        return Labels(encoded.types)

    def score(self, read: Rows) -> float:
        """See `Judge`."""
        return float(read[0])
