"""A folder's tokenizer as the metadata of a GGUF file: `from_gguf` the other way round.

Not every tokenizer can be written. What was written is read again, and must cut a set of texts alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from landrace.errors import LandraceError, UnsupportedError
from landrace.text.folder_config import FolderConfig
from landrace.text.from_folder import load_tokenizer
from landrace.text.from_gguf import tokenizer_from_gguf
from landrace.text.pretokenizers import CUTS, Cut, build_normalizer, build_pre_tokenizer
from landrace.text.sentencepiece import Kind
from landrace.text.tokenizer import Spelling, Tokenizer

PROBES = (
    "Hello world's 'LL you'RE I'm 'S can't\n\n\n  indented\t\ttabs \r\n\r\n x  \n",
    "1234567 3.14159 42 1,000,000 ²³ ½ ٣٤٥ १२३ x1y22z333",
    "CamelCaseWords iPhone HTMLParser ÉCOLE Straße ǅ ñandú e\u0301le\u0300ve",
    "Русский текст, ελληνικά! 中文字符日本語のテキスト한국어 ภาษาไทย עברית العربية हिन्दी",
    "$+=<>^~|`#%&*()[]{}@_\\/;:?!.,-— “quoted” «such» … ¿que? (a)[b]{c} //comment .method() #tag",
    "😀👩‍👩‍👧‍👦 emoji ⌘ ∑∫√ \u00a0nbsp \u200bzero \u3000wide",
    "   leading and trailing   ",
    "http://example.org/path?x=1&y=2#z  a_b-c.d@e.f ABC'Def 'tis\n-\n--\n\t-",
)
"""What tells the known ways to cut text from one another."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def gguf_vocabulary(folder: Path, size: int) -> dict[str, Any]:
    """The `tokenizer.` keys of a model folder with an embedding of `size` rows.

    UnsupportedError for a tokenizer that GGUF files cannot say or that is not written here.
    """
    tokenizer, config = load_tokenizer(folder), FolderConfig.read(folder)
    model = json.loads(tokenizer.backend.to_str())["model"]
    if model["type"] != "BPE":
        raise _unsupported("it is no BPE")
    texts = [tokenizer.token_text(index) for index in range(size)]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if tokenizer.conventions.spelling is Spelling.BYTE_LEVEL:
        own: dict[str, Any] = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _cut_of(tokenizer, bool(model.get("ignore_merges"))),
            "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        }
    else:
        own = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": _scores(texts, merges),
            "tokenizer.ggml.add_space_prefix": tokenizer.conventions.adds_space,
        }
    found: dict[str, Any] = {
        **own,
        "tokenizer.ggml.tokens": [f"[PAD{index}]" if text is None else text for index, text in enumerate(texts)],
        "tokenizer.ggml.token_type": _kinds(tokenizer, model, texts),
        "tokenizer.ggml.add_bos_token": bool(tokenizer.conventions.prefix_ids),
        "tokenizer.ggml.add_eos_token": bool(tokenizer.conventions.suffix_ids),
        **_named_ids(tokenizer, config.named_tokens),
        **_templates(config.templates),
    }
    _check(tokenizer, found)
    return found


def _kinds(tokenizer: Tokenizer, model: Mapping[str, Any], texts: Sequence[str | None]) -> list[int]:
    added, unknown, in_bytes = tokenizer.backend.get_added_tokens_decoder(), model["unk_token"], model["byte_fallback"]

    def kind(index: int, text: str | None) -> Kind:
        if text is None:
            return Kind.UNUSED
        if text == unknown:
            return Kind.UNKNOWN
        if index in added:
            return Kind.CONTROL if index in tokenizer.special_ids else Kind.USER_DEFINED
        return Kind.BYTE if in_bytes and _BYTE.fullmatch(text) else Kind.NORMAL

    return [int(kind(index, text)) for index, text in enumerate(texts)]


def _scores(texts: Sequence[str | None], merges: Sequence[Sequence[str]]) -> list[float]:
    """SentencePiece joins the two neighbours whose whole has the greatest score: those that are joined first."""
    ranks: dict[str | None, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    return [-float(ranks.get(text, len(merges))) for text in texts]


def _unsupported(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"The model's tokenizer cannot be written into a GGUF file: {reason}.",
        hint="Start from a GGUF of the model, or choose a form of safetensors.",
    )


def _cut_of(tokenizer: Tokenizer, ignores_merges: bool) -> str:
    """The first known cut that parts the probes as this tokenizer does."""
    own = tokenizer.backend.normalizer, tokenizer.backend.pre_tokenizer
    wanted = _pieces(*own)
    same = (name for name, cut in CUTS.items() if cut.ignore_merges == ignores_merges and _pieces_of(cut) == wanted)
    name = next(same, None)
    if name is None:
        raise _unsupported("it cuts text into words in a way that has no name there")
    return name


def _pieces_of(cut: Cut) -> list[list[str]]:
    return _pieces(build_normalizer(cut), build_pre_tokenizer(cut))


def _pieces(normalizer: Any, pre_tokenizer: Any) -> list[list[str]]:
    normal = (text if normalizer is None else normalizer.normalize_str(text) for text in PROBES)
    return [[piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] for text in normal]


def _named_ids(tokenizer: Tokenizer, named: Mapping[str, str]) -> dict[str, int]:
    """The end of a text first, then what else ends an answer."""
    ids = {key: tokenizer.token_id(named.get(f"{name}_token", "")) for name, key in _NAMES.items()}
    if tokenizer.conventions.suffix_ids:
        ids["eos_token_id"] = tokenizer.conventions.suffix_ids[0]
    ends = sorted(tokenizer.eos_ids - {ids["eos_token_id"]})
    if ids["eos_token_id"] is None and ends:
        ids["eos_token_id"] = ends.pop(0)
    if tokenizer.bos_id is not None:
        ids["bos_token_id"] = tokenizer.bos_id
    ids |= dict(zip(("eot_token_id", "eom_token_id"), ends, strict=False))
    return {f"tokenizer.ggml.{key}": index for key, index in ids.items() if index is not None}


_NAMES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}


def _templates(templates: Mapping[str, str]) -> dict[str, str]:
    key = "tokenizer.chat_template"
    return {key if name == "default" else f"{key}.{name}": text for name, text in templates.items()}


def _check(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """UnsupportedError where a reader of the metadata would cut texts otherwise, or end answers elsewhere."""
    try:
        again = tokenizer_from_gguf(metadata)
    except LandraceError as error:
        raise _unsupported(error.message.removesuffix(".")) from error
    if _ids(again) != _ids(tokenizer):
        raise _unsupported("it would give other ids there")
    if again.conventions.prefix_ids != tokenizer.conventions.prefix_ids:
        raise _unsupported("texts begin with more than one token")
    if again.conventions.suffix_ids != tokenizer.conventions.suffix_ids:
        raise _unsupported("texts end with more than one token")
    if again.eos_ids != tokenizer.eos_ids:
        raise _unsupported("more tokens end an answer than there are names for")


def _ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text) for text in _with_added(tokenizer)]


def _with_added(tokenizer: Tokenizer) -> Iterable[str]:
    yield from PROBES
    for token in tokenizer.backend.get_added_tokens_decoder().values():
        yield f"a {token.content} b{token.content}"
