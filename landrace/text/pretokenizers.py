"""How byte-level BPE vocabularies cut text into words before merging: facts, one row a known cut.

The names are those of `tokenizer.ggml.pre` in GGUF files. Each pattern cuts the pieces that the one before it left;
what no pattern matches stays a piece of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from landrace.errors import UnsupportedError

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True)
class Cut:
    """One way of cutting text.

    `nfc`: text is brought to Unicode NFC first. `ignore_merges`: a whole word that is a token is taken as it is, a
    property of vocabularies that come from a rank file, some of whose tokens no chain of merges makes.
    `adds_bos`: what such vocabularies do where the file does not say whether a text starts with the BOS token.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False


_SPACES = r"\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES


def _cl100k(digits: str) -> str:
    """The GPT-4 pattern, with the run of digits that counts as one word."""
    return _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES


def _cased(digits: str, *, suffix: str, letters: str = "", ending: str = r"[\r\n/]*") -> str:
    """The GPT-4o pattern: words end where lower case turns to upper. `letters` narrows both letter classes."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{letters}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{letters}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+{ending}|\s*[\r\n]+|" + _SPACES
    )


_KANA_AND_HAN = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
_HAN_AND_HANGUL = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|" + _SPACES
)
_SPARK_WORDS = _DEEPSEEK_WORDS.replace(r"[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+", r"[\p{P}\p{S}]+|[\r\n]")
_ASIAN = (
    r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[！…“”‘’—：；，、-\x{303F}\x{FE30}-\x{FE4F}]+|[\x{3105}-\x{312F}]+"
    r"|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
)
_CASED_LETTERS = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}"
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}"
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}"
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}"
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}"
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}"
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}"
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}"
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}"
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)

_LLAMA3 = Cut((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True, adds_bos=True)
_GPT4 = Cut((_cl100k(r"\p{N}{1,3}"),))
_GLM4 = Cut(_GPT4.patterns, ignore_merges=True)
_QWEN2 = Cut((_cl100k(r"\p{N}"),), nfc=True)
_ONE_DIGIT = Cut((_cl100k(r"\p{N}"),))
_HUNYUAN = Cut(_ONE_DIGIT.patterns, ignore_merges=True)
_GPT2_CUT = Cut((GPT2,))
_SMOLLM = Cut((r"\p{N}", GPT2))
_DEEPSEEK_V3 = Cut((r"\p{N}{1,3}", _KANA_AND_HAN, _DEEPSEEK_WORDS))
_GPT4O = Cut((_cased(r"\p{N}{1,3}", suffix=_SUFFIX + "?"),))
_BAILING = Cut(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|" + _SPACES,)
)

CUTS: dict[str, Cut] = {
    "default": Cut((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "falcon-h1": _LLAMA3,
    "pixtral": _LLAMA3,
    "lfm2": _LLAMA3,
    "midm-2.0": _LLAMA3,
    "jina-v5-nano": _LLAMA3,
    "dbrx": _GPT4,
    "smaug-bpe": _GPT4,
    "glm4": _GLM4,
    "chatglm-bpe": _GLM4,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "kormo": _QWEN2,
    "f2llmv2": _QWEN2,
    "qwen35": Cut(
        (_SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES,),
        nfc=True,
    ),
    "stablelm2": _ONE_DIGIT,
    "megrez": _ONE_DIGIT,
    "hunyuan": _HUNYUAN,
    "grok-2": _ONE_DIGIT,
    "solar-open": _ONE_DIGIT,
    "gpt-2": _GPT2_CUT,
    "phi-2": _GPT2_CUT,
    "mpt": _GPT2_CUT,
    "olmo": _GPT2_CUT,
    "jais": _GPT2_CUT,
    "exaone4": _GPT2_CUT,
    "trillion": _GPT2_CUT,
    "granite-docling": _GPT2_CUT,
    "a.x-4.0": _GPT2_CUT,
    "gigachat": _GPT2_CUT,
    "mellum": _GPT2_CUT,
    "modern-bert": _GPT2_CUT,
    "smollm": _SMOLLM,
    "starcoder": _SMOLLM,
    "refact": _SMOLLM,
    "codeshell": _SMOLLM,
    "exaone": _SMOLLM,
    "minerva-7b": _SMOLLM,
    "mellum2": _SMOLLM,
    "command-r": Cut(_SMOLLM.patterns, nfc=True),
    "falcon": Cut((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "deepseek-llm": Cut(
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            _HAN_AND_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Cut((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, r"\p{N}")),
    "deepseek-v3": _DEEPSEEK_V3,
    "hunyuan-dense": _DEEPSEEK_V3,
    "hy_v4": _DEEPSEEK_V3,
    "joyai-llm": _DEEPSEEK_V3,
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
    "minimax-m2": _GPT4O,
    "kanana2": _GPT4O,
    "talkie": _GPT4O,
    "youtu": Cut((_ASIAN, _cased(r"\p{N}", suffix=_SUFFIX + "?")), ignore_merges=True),
    "spark2_5": Cut((r"\p{N}{1,3}", _KANA_AND_HAN, _SPARK_WORDS, r"\p{N}")),
    "tekken": Cut((_cased(r"\p{N}", suffix=""),), ignore_merges=True, adds_bos=True),
    "kimi-k2": Cut(
        (r"\p{Han}+|" + _cased(r"\p{N}{1,3}", suffix=_SUFFIX + "?", letters=r"&&[^\p{Han}]", ending=r"[\r\n]*"),),
        ignore_merges=True,
    ),
    "seed-coder": Cut((_SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|" + _SPACES,)),
    "bailingmoe": _BAILING,
    "bailingmoe2": _BAILING,
    "llada-moe": _BAILING,
    "minicpm5": Cut((r"\p{N}{1,3}", _cl100k(r"\p{N}+")), ignore_merges=True),
}


def find_cut(name: str) -> Cut:
    """The cut called `name`; UnsupportedError naming it if there is none."""
    cut = CUTS.get(name)
    if cut is None:
        raise UnsupportedError(
            f"The pre-tokenizer {name!r} is not known.",
            hint="Use a folder with the model's tokenizer.json, which describes its own pre-tokenizer.",
        )
    return cut


def build_pre_tokenizer(cut: Cut) -> PreTokenizer:
    """The cut as a `tokenizers` pre-tokenizer that ends in the byte-level alphabet."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[PreTokenizer] = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cut.patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def build_normalizer(cut: Cut) -> Normalizer | None:
    """NFC where the vocabulary was made on NFC text, else nothing."""
    from tokenizers import normalizers

    return normalizers.NFC() if cut.nfc else None
