"""Text to token ids and back, whatever file the vocabulary came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from landrace.errors import CheckpointError, PromptTooLongError, RequestError
from landrace.text.borders import Borders
from landrace.text.byte_level import token_to_bytes
from landrace.text.fewest_tokens import FewestTokens
from landrace.text.sentencepiece import WORD_START

if TYPE_CHECKING:
    import tokenizers

    from landrace.text.answers.grammar import Grammar
    from landrace.text.chat_template import ChatTemplate
    from landrace.text.guides import GuideCompiler

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling(Enum):
    """How a vocabulary writes bytes in its tokens."""

    BYTE_LEVEL = "byte_level"
    SENTENCEPIECE = "sentencepiece"


@dataclass(frozen=True)
class Conventions:
    """What a vocabulary's file says beyond the tokens.

    `prefix_ids` is what a text starts with (usually BOS, nothing for many models, `[gMASK]<sop>` for GLM).
    `adds_space` is true where encoding puts a space before the text, which decoding takes away again.
    `eos_ids` are the tokens that end an answer, see `landrace.text.end_tokens`.
    `unused_ids` are rows that a file fills up with tokens that no text has.
    """

    spelling: Spelling
    prefix_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    eos_ids: frozenset[int] = field(default_factory=frozenset)
    adds_space: bool = False
    unused_ids: frozenset[int] = field(default_factory=frozenset)


class Tokenizer:
    """A vocabulary with its conventions; safe to share between threads.

    Special tokens are the control tokens of the vocabulary (BOS, EOS, turn marks). Added tokens that are ordinary
    text, such as `<think>` in Qwen3, are matched in text always and are shown when decoding.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, conventions: Conventions, chat_template: ChatTemplate | None = None
    ) -> None:
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()
        self._bytes_of: dict[int, bytes] = {}
        self.conventions = conventions
        self.chat_template = chat_template
        self.special_ids = frozenset(index for index, token in self._added.items() if token.special)
        self.vocab_size = max(backend.get_vocab_size(with_added_tokens=False), *(i + 1 for i in self._added), 0)

    @property
    def bos_id(self) -> int | None:
        """The token that starts a text, if the vocabulary has one."""
        return self.conventions.bos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer."""
        return self.conventions.eos_ids

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The library's tokenizer behind this one, to look at and not to change."""
        return self._backend

    @property
    def control_ids(self) -> frozenset[int]:
        """The special tokens, and added tokens that end an answer though the vocabulary does not call them special."""
        return self.special_ids | (self.eos_ids & self._added.keys())

    @cached_property
    def answer_grammar(self) -> Grammar:
        """The grammar that answers are written in, as the chat template and the added tokens show it."""
        from landrace.text.answers.choice import answer_grammar

        return answer_grammar(self.chat_template, [token.content for token in self._added.values()])

    @cached_property
    def mark_ids(self) -> frozenset[int]:
        """The control tokens that the marks of answers are made of: who takes answers apart must see their texts."""
        texts = ((index, self.token_text(index)) for index in self.special_ids)
        return frozenset(
            index for index, text in texts if text and any(text in one for one in self.answer_grammar.marks)
        )

    @cached_property
    def guides(self) -> GuideCompiler:
        """Makes grammars of this vocabulary's tokens out of guides."""
        from landrace.text.guides import GuideCompiler

        return GuideCompiler(self)

    def added_ids(self, text: str) -> list[int]:
        """The added tokens that `text` spells out, in the order they appear."""
        return [index for index in self.encode(text, add_bos=False) if index in self._added]

    def warm_up(self) -> None:
        """Works out now what the first long text, or the first chat, would have to wait for."""
        _ = self._borders, self._fewest_tokens, self.mark_ids

    def check_length(self, text: str, limit: int) -> None:
        """PromptTooLongError where the length of `text` tells that it has more than `limit` tokens."""
        if len(text) > limit:  # else the bound is of no use
            check_tokens(self._fewest_tokens.count(text), limit)

    def encode(
        self, text: str, *, add_bos: bool = True, parse_special: bool = True, limit: int | None = None
    ) -> list[int]:
        """Token ids of `text`.

        `add_bos` puts the model's own text start (`conventions.prefix_ids`, possibly nothing) first, unless the text
        already begins with it. With `parse_special=False` a control token spelled out in the text is encoded as
        plain text, so that text from outside cannot forge one.

        A long text is encoded piece by piece, which takes little memory and lets other threads run. Raises
        PromptTooLongError as soon as it is known that the text has more than `limit` tokens, if possible from its
        length alone; RequestError for text that is not Unicode, and for more than `borders.MAX_STRETCH` characters
        that cannot be cut.
        """
        backend = self._backend if parse_special else self._plain_backend
        ids: list[int] = []
        try:
            if limit is not None:
                self.check_length(text, limit)
            for piece in (self._borders if parse_special else self._plain_borders).pieces(text):
                # For one text `encode` would do the same, but keep the interpreter's lock.
                encoding = backend.encode_batch_fast([piece], add_special_tokens=False)[0]
                if limit is not None:
                    check_tokens(len(ids) + len(encoding), limit)
                ids += encoding.ids
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(
                "The text is not valid Unicode text.", field="prompt", hint="Send a string without lone surrogates."
            ) from error
        prefix = self.conventions.prefix_ids
        if add_bos and prefix and tuple(ids[: len(prefix)]) != prefix:
            return [*prefix, *ids]
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, keep_leading_space: bool = False) -> str:
        """The text of `ids`, bytes that are not UTF-8 shown as U+FFFD.

        `keep_leading_space` keeps the space that a SentencePiece vocabulary puts before a text: for ids that
        continue a text rather than start one.
        """
        data = b"".join([self.shown_bytes(index, skip_special=skip_special) for index in ids])
        if self.conventions.adds_space and not keep_leading_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token, control tokens included; empty for an id that has no token.

        Models may have more rows than the vocabulary has tokens; such ids have no bytes.
        """
        data = self._bytes_of.get(token_id)
        if data is None:
            data = self._bytes_of[token_id] = self._spelled_bytes(token_id)
        return data

    def shown_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """What a token adds to a decoded text: its bytes, or nothing for a control token that is skipped."""
        return b"" if skip_special and token_id in self.special_ids else self.token_bytes(token_id)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its spelling in the vocabulary."""
        return self._backend.token_to_id(token)

    def token_text(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it."""
        return self._backend.id_to_token(token_id) if token_id >= 0 else None

    def _spelled_bytes(self, token_id: int) -> bytes:
        token = self.token_text(token_id)
        if token is None:
            return b""
        added = token_id in self._added
        if self.conventions.spelling is Spelling.BYTE_LEVEL:
            return token.encode("utf-8") if added else token_to_bytes(token)
        byte = None if added else _BYTE_TOKEN.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(WORD_START, " ").encode("utf-8")

    @cached_property
    def _borders(self) -> Borders:
        return Borders.of(self._backend)

    @cached_property
    def _plain_borders(self) -> Borders:
        return Borders.of(self._plain_backend)

    @cached_property
    def _fewest_tokens(self) -> FewestTokens:
        return FewestTokens.of(self._backend)

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer:
        """The same vocabulary, blind to control tokens."""
        plain = self._backend_with([self._added[index] for index in sorted(self._added)])
        if plain.get_added_tokens_decoder().keys() != self._added.keys():
            raise CheckpointError("The tokenizer's added tokens have ids that leave gaps.")
        plain.encode_special_tokens = True
        return plain

    def respelled(self, spellings: Mapping[int, str]) -> tuple[Tokenizer, dict[int, int]]:
        """The same vocabulary with other texts for some added tokens: their old texts become ordinary text.

        Also returned: the id here of each added token's id there.
        """
        from tokenizers import AddedToken

        tokens = []
        for index, token in sorted(self._added.items()):
            flags = {
                name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
            }
            tokens.append(AddedToken(spellings.get(index, token.content), **flags))
        backend = self._backend_with(tokens)
        there = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
        ids = {there[token.content]: i for token, i in zip(tokens, sorted(self._added), strict=True)}
        if any(index not in self._added and self.token_text(index) is not None for index in ids):
            raise CheckpointError("The tokenizer's ids leave gaps.")
        return Tokenizer(backend, replace(self.conventions, prefix_ids=())), ids

    def _backend_with(self, added: list[tokenizers.AddedToken]) -> tokenizers.Tokenizer:
        """A backend with these added tokens. It shares the model, so it costs almost no memory."""
        import tokenizers

        backend = tokenizers.Tokenizer(self._backend.model)
        if self._backend.normalizer is not None:
            backend.normalizer = self._backend.normalizer
        if self._backend.pre_tokenizer is not None:
            backend.pre_tokenizer = self._backend.pre_tokenizer
        backend.add_tokens(added)
        return backend


def check_tokens(n_tokens: int, limit: int) -> None:
    """PromptTooLongError for a prompt of at least `n_tokens` tokens where at most `limit` fit."""
    if n_tokens > limit:
        raise PromptTooLongError(
            f"The maximum context length is {limit} tokens; the prompt has at least {n_tokens}.",
            field="prompt",
            hint="Shorten the prompt.",
        )
