"""Where a long text can be cut so that its pieces, encoded one by one, give the ids of the whole.

A cut is exact where no step of a tokenizer can see across it. Three kinds of tokenizers are understood:

- Byte-level ones whose pre-tokenizer is made of the patterns in `landrace.text.pretokenizers`. None of their patterns
  matches a letter and then a space or a full stop, or looks back, and where one looks ahead it has met white space.
  So a word ends there whatever follows. Digits that are cut in ones or threes can be cut after any three.
- SentencePiece BPE, which takes the whole text as one word. No merge crosses a space when no token of the vocabulary
  holds that space behind another character.
- BERT's, whose words end at white space whatever stands around it.

Other tokenizers are given the whole text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from landrace.errors import RequestError
from landrace.text.pretokenizers import CUTS, GPT2
from landrace.text.sentencepiece import WORD_START

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECE = 2**15
"""Characters after which the next border is taken."""
MAX_STRETCH = 2**20
"""Most characters without a border: while they are encoded, each takes some hundred bytes of memory."""

_DIGITS = "0123456789"
_BYTES = "(bytes)"
MARK_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START}
_SQUEEZE_SPACES = [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": to} for to in (" ", WORD_START)]
_SENTENCEPIECE_STEPS = frozenset({"Prepend", "Replace", "Strip", "Precompiled", "NFC", "NFKC"})
_STEP_AFTER_TOKEN = 64
# Letters that every pattern takes for letters, and what may follow a word of them. The second line has no capital
# letters; patterns that list letters one by one leave them out.
_LETTERS = "A-Za-zÀ-ÖØ-öø-ſΑ-ΡΣ-Ωα-ωЀ-я"
_MORE_LETTERS = "Ա-Ֆա-ևא-תء-ؿف-يٱ-ۓऄ-हক-নপ-রக-கம-ஹక-నప-హက-အก-ะเ-ๅა-ჰሀ-ቆក-អ"
_EASTERN_LETTERS = "ぁ-ゖァ-ヺ一-龥가-힣"
_STOPS = r" \n!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~。、，！？：；"


@dataclass(frozen=True)
class Borders:
    """The borders of one tokenizer.

    `pattern` matches at a border of words; a space that it takes is left out of the pieces, because a tokenizer that
    puts a space before a text adds it again. None where the tokenizer is not understood. `added` are the texts of added
    tokens, which no such border touches. `only_ascii`: those are looked for in normalised text, so a border stands in
    text that normalising leaves alone. `marks` are the added tokens that are borders themselves.
    """

    pattern: re.Pattern[str] | None
    added: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    only_ascii: bool = False

    @classmethod
    def of(cls, backend: Tokenizer) -> Borders:
        """The borders that the parts of a `tokenizers` backend allow."""
        model = backend.model
        plain = type(model).__name__ == "BPE" and not (
            model.dropout or model.end_of_word_suffix or model.continuing_subword_prefix
        )
        tokens = list(backend.get_added_tokens_decoder().values())
        marks = tuple(
            token.content
            for token in tokens
            if not ((token.special and backend.encode_special_tokens) or token.normalized)
            and not (token.lstrip or token.rstrip or token.single_word)
        )
        texts = {text for token in tokens for text in (token.content, token.content.replace(WORD_START, " "))}
        changes = any(step["type"] not in ("Replace", "Prepend") for step in steps_of(backend.normalizer))
        return cls(
            _byte_level(backend) or _sentencepiece(backend) if plain else _bert(backend),
            tuple(sorted(texts)),
            marks,
            changes and any(token.normalized for token in tokens),
        )

    def pieces(self, text: str) -> Iterator[str]:
        """The text in pieces of about `PIECE` characters. Raises RequestError where there is no border for too long."""
        start = 0
        while len(text) - start > PIECE:
            border = self._next(text, start)
            if border is None:
                if len(text) - start > MAX_STRETCH:
                    raise RequestError(
                        f"The text has a stretch of more than {MAX_STRETCH:,} characters without a place to cut it, "
                        "such as a space between two words.",
                        field="prompt",
                        hint="Break the stretch up with spaces, or send fewer characters.",
                    )
                break
            yield text[start : border[0]]
            start = border[1]
        yield text[start:] if start else text

    def _next(self, text: str, start: int) -> tuple[int, int] | None:
        """Where this piece ends and the next begins."""
        at, end = start + PIECE, min(len(text), start + MAX_STRETCH)
        while at < end - 1:
            # A window at a time, since a search holds the interpreter's lock.
            window = min(at + PIECE, end)
            border = self._word_border(text, start, at, window) or self._mark(text, at, window)
            if border is not None:
                return border
            at = window - 1
        return None

    def _word_border(self, text: str, start: int, at: int, end: int) -> tuple[int, int] | None:
        while self.pattern is not None and (found := self.pattern.search(text, at, end)) is not None:
            if text[found.start() - 1] in _DIGITS and text[found.end()] in _DIGITS:
                at = _next_three(text, start, found.start())
                if at != found.start():
                    continue
            if self._touches_no_token(text, found.start(), found.end()):
                return found.span()
            at = found.end() + _STEP_AFTER_TOKEN
        return None

    def _mark(self, text: str, at: int, end: int) -> tuple[int, int] | None:
        """The start of a control token that no other added token overlaps: the text on either side stands alone."""
        for mark in self.marks:
            found = text.find(mark, at, end + len(mark))
            if found >= 0 and all(
                text.find(token, max(0, found - len(token) + 1), found + len(token) - 1) < 0 for token in self.added
            ):
                return found, found
        return None

    def _touches_no_token(self, text: str, start: int, end: int) -> bool:
        longest = max(map(len, self.added), default=0)
        if self.only_ascii and not text[max(0, start - longest) : end + longest].isascii():
            return False
        return all(
            text.find(token, max(0, start - len(token)), min(len(text), end + len(token))) < 0 for token in self.added
        )


def _next_three(text: str, start: int, at: int) -> int:
    """`at`, if the digits around it can be cut there: after threes from their first one. Else where to look next.

    A piece that starts within digits starts after a three of them.
    """
    first = at
    while first > start and text[first - 1] in _DIGITS:
        first -= 1
    if first > start and unicodedata.category(text[first - 1]).startswith("N"):
        while at < len(text) and text[at] in _DIGITS:
            at += 1
        return at
    return at + -(at - first) % 3


def _byte_level(backend: Tokenizer) -> re.Pattern[str] | None:
    normalizer, steps = steps_of(backend.normalizer), steps_of(backend.pre_tokenizer)
    if any(step["type"] != "NFC" for step in normalizer) or tuple(map(_pattern_of, steps)) not in _known_cuts():
        return None
    texts = [token.content for token in backend.get_added_tokens_decoder().values()]
    ends = {end for _, (_, end) in backend.pre_tokenizer.pre_tokenize_str("7" * 12)}
    in_threes = ends >= {3, 6, 9} and not any(text[0] in _DIGITS or text[-1] in _DIGITS for text in texts if text)
    letters = _LETTERS + (_MORE_LETTERS if any("L}" in str(_pattern_of(step)) for step in steps) else "")
    borders = [
        rf"(?<=[{letters}{_EASTERN_LETTERS}])(?=[{_STOPS}])",
        rf"(?<=[0-9])(?=[A-Za-z{_STOPS}])",
        rf"(?<=\S)(?= [{letters}])",
    ]
    return re.compile("|".join([*borders, r"(?<=[0-9]{3})(?=[0-9])"] if in_threes else borders))


def _known_cuts() -> set[tuple[str | None, ...]]:
    cuts = {tuple(map(_as_characters, steps)) for cut in CUTS.values() for steps in (cut.patterns, cut.steps)}
    # The last step writes bytes as characters, and may cut by GPT-2's pattern itself.
    own = {(*cut[:-1], _as_characters(GPT2) + _BYTES) for cut in cuts if cut[-1] == _as_characters(GPT2)}
    return {(*cut, _BYTES) for cut in cuts} | own


def _pattern_of(step: Mapping[str, Any]) -> str | None:
    """The pattern by which a pre-tokenizer's step cuts; None for one that does something else."""
    match step:
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return _as_characters(pattern)
        case {"type": "Digits", "individual_digits": True}:
            return r"\p{N}"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(cuts)}:
            return (_as_characters(GPT2) if cuts else "") + _BYTES
    return None


def _as_characters(pattern: str) -> str:
    r"""A pattern without the ways of writing that differ between files: \x{4E00} and \"."""
    return re.sub(r"\\x\{([0-9A-Fa-f]+)\}", lambda code: chr(int(code[1], 16)), pattern).replace(r"\"", '"')


def _sentencepiece(backend: Tokenizer) -> re.Pattern[str] | None:
    normalizer, steps = steps_of(backend.normalizer), steps_of(backend.pre_tokenizer)
    kinds = {step["type"] for step in normalizer}
    if [step["type"] for step in steps] not in ([], ["Metaspace"]) or not kinds <= _SENTENCEPIECE_STEPS:
        return None
    if any(step["type"] == "Replace" and step not in (MARK_SPACES, *_SQUEEZE_SPACES) for step in normalizer):
        return None
    marks = [step for step in normalizer if step == MARK_SPACES] + steps
    vocab = backend.get_vocab(with_added_tokens=False)
    if not marks or WORD_START not in vocab or backend.model.ignore_merges:
        return None
    before = {token[at - 1] for token in vocab for at in range(1, len(token)) if token[at] == WORD_START} - {WORD_START}
    prepends = "Prepend" in kinds or any(step["prepend_scheme"] != "never" for step in steps)
    if "Strip" in kinds and not prepends:
        return None
    if kinds <= {"Prepend", "Replace"}:
        left, right = rf"[^\s{WORD_START}{re.escape(''.join(sorted(before)))}]", rf"[^\s{WORD_START}]"
    else:  # letters that no normalizer changes or joins with the space
        left = right = "[A-Za-z0-9]"
        if any(char.isascii() and char.isalnum() for char in before):
            return None
    return re.compile(f"(?<={left}) (?={right})" if prepends else f"(?<={left})(?= {right})")


def _bert(backend: Tokenizer) -> re.Pattern[str] | None:
    steps = [step["type"] for part in (backend.normalizer, backend.pre_tokenizer) for step in steps_of(part)]
    known = type(backend.model).__name__ == "WordPiece" and steps == ["BertNormalizer", "BertPreTokenizer"]
    return re.compile(r"(?<=\S) (?=\S)") if known else None


def steps_of(part: Any) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, as tokenizer.json describes them."""
    state = None if part is None else json.loads(part.__getstate__())
    steps = [state] if isinstance(state, dict) else []
    while any(step["type"] == "Sequence" for step in steps):
        steps = [inner for step in steps for inner in (step.get("normalizers") or step.get("pretokenizers") or [step])]
    return steps
