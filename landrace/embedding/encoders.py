"""Encoders as sources of vectors, and as judges of a query with a document."""

from __future__ import annotations

from collections.abc import Sequence

from landrace.embedding.sources import Rows
from landrace.embedding.texts import Encoded
from landrace.engine.reading import Pool
from landrace.engine.readout import PoolKind
from landrace.errors import OptionError, PromptTooLongError, UnsupportedError
from landrace.models.encoder import Encoder
from landrace.text import Tokenizer

_TOGETHER = 64
"""Pairs in a pass."""


class EncoderVectors:
    """See `VectorSource`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def width(self) -> int:
        return self._encoder.spec.d_model

    @property
    def max_length(self) -> int:
        return self._encoder.spec.max_length

    def pooled(
        self, sequences: Sequence[Sequence[int]], kinds: Sequence[PoolKind], skipped: int, adapter: str | None
    ) -> list[Rows]:
        _check_no_adapter(adapter)
        rows = self._encoder.hidden(sequences).numpy()
        found, start = [], 0
        for ids in sequences:
            pool = Pool(kinds)
            pool.add(rows[start + skipped : start + len(ids)], skipped)
            found.append(pool.vector())
            start += len(ids)
        return found


class PairJudge:
    """A cross-encoder: its classifier on the query and the document, read together. See `Scorer`."""

    told = "the checkpoint's classifier on the query with the document"
    takes_instructions = False

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, name: str) -> None:
        """UnsupportedError for an encoder without a classifier, or with one of several classes."""
        classifier = encoder.spec.classifier
        if classifier is None:
            raise UnsupportedError(
                f"{name} has no classifier, so it judges no documents.", hint="Use it with `landrace embed`."
            )
        if classifier.n_labels != 1:
            raise UnsupportedError(f"{name} sorts texts into {classifier.n_labels} classes; a reranker has one score.")
        self._encoder = encoder
        self._tokenizer = tokenizer

    def encode(self, query: str, documents: Sequence[str], instruction: str | None, *, truncate: bool) -> list[Encoded]:
        """Of texts that are too long together, the longer one loses its end."""
        limit = self._encoder.spec.max_length
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

    def scores(self, encoded: Sequence[Encoded], adapter: str | None) -> list[float]:
        _check_no_adapter(adapter)
        found: list[float] = []
        for start in range(0, len(encoded), _TOGETHER):
            some = encoded[start : start + _TOGETHER]
            found += self._encoder.scores([one.ids for one in some], [one.types for one in some])[:, 0].tolist()
        return found


def _check_no_adapter(adapter: str | None) -> None:
    if adapter is not None:
        raise OptionError("An encoder takes no adapter.", hint="Leave it out.")
