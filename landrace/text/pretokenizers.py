"""How byte-level BPE vocabularies cut text into words before merging: facts, one row a known cut.

The names are those of `tokenizer.ggml.pre` in GGUF files. Each pattern cuts the pieces that the one before it left;
what no pattern matches stays a piece of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from landrace.errors import UnsupportedError
from landrace.text import deepseek_words

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer


@dataclass(frozen=True)
class Cut:
    """One way of cutting text.

    `whole`: one pattern that cuts as all `patterns` in turn, where those are many and slow. `nfc`: text is brought to
    Unicode NFC first. `ignore_merges`: a whole word that is a token is taken as it is, a property of vocabularies that
    come from a rank file, some of whose tokens no chain of merges makes. `adds_bos`: what such vocabularies do where
    the file does not say whether a text starts with the BOS token.
    """

    patterns: tuple[str, ...]
    whole: str | None = None
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    @property
    def steps(self) -> tuple[str, ...]:
        """The patterns that are used."""
        return self.patterns if self.whole is None else (self.whole,)


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
_DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|" + _SPACES
)
_SPARK_WORDS = _DEEPSEEK_WORDS.replace(r"[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+", r"[\p{P}\p{S}]+|[\r\n]")
_ASIAN = (
    r"[\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[！…“”‘’—：；，、-\x{303F}\x{FE30}-\x{FE4F}]+|[\x{3105}-\x{312F}]+"
    r"|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
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
    "deepseek-llm": Cut(deepseek_words.LLM, whole=deepseek_words.LLM_WHOLE),
    "deepseek-coder": Cut(deepseek_words.CODER, whole=deepseek_words.CODER_WHOLE),
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

    steps: list[PreTokenizer] = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cut.steps]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def build_normalizer(cut: Cut) -> Normalizer | None:
    """NFC where the vocabulary was made on NFC text, else nothing."""
    from tokenizers import normalizers

    return normalizers.NFC() if cut.nfc else None
