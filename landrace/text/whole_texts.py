"""What stands around texts that are read as a whole, and between two that are read together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError
from landrace.text.tokenizer import Conventions

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class Frame:
    """See `Conventions`."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    second_type: int = 0

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> Frame:
        """What the post-processor of a `tokenizers` backend writes."""
        alone, pair = backend.encode("a"), backend.encode("a", "a")
        if 0 not in alone.sequence_ids:
            return cls()
        first, end = alone.sequence_ids.index(0), len(alone) - alone.sequence_ids[::-1].index(0)
        prefix, suffix = tuple(alone.ids[:first]), tuple(alone.ids[end:])
        if 1 not in pair.sequence_ids:
            return cls(prefix, suffix)
        second = pair.sequence_ids.index(1)
        middle = second - pair.sequence_ids[:second][::-1].index(0)
        return cls(prefix, suffix, tuple(pair.ids[middle:second]), pair.type_ids[second])

    def around(self, conventions: Conventions) -> Conventions:
        """The same with this frame, but for the prefix."""
        return replace(conventions, suffix_ids=self.suffix, between_ids=self.between, second_type=self.second_type)


def bert_frame(backend: tokenizers.Tokenizer, start: str, separator: str) -> Frame:
    """BERT's: [CLS] one [SEP] other [SEP]."""
    first, end = _id(backend, start), _id(backend, separator)
    return Frame((first,), (end,), (end,), second_type=1)


def fairseq_frame(backend: tokenizers.Tokenizer, start: str = "<s>", end: str = "</s>") -> Frame:
    """RoBERTa's: <s> one </s></s> other </s>."""
    first, last = _id(backend, start), _id(backend, end)
    return Frame((first,), (last,), (last, last))


def _id(backend: tokenizers.Tokenizer, token: str) -> int:
    index = backend.token_to_id(token)
    if index is None:
        raise CheckpointError(f"The vocabulary lacks the token {token!r}.")
    return index
