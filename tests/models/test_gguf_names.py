"""Every name that llama.cpp has for an architecture: opened, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from landrace.checkpoints.checkpoint import open_checkpoint
from landrace.checkpoints.gguf_write import write_gguf
from landrace.errors import UnsupportedError
from landrace.models.families import gguf_encoders
from landrace.models.families.gguf_architectures import ARCHITECTURES

OTHERS = """
    afmoe apertus arcee arctic arwkv7 bailingmoe bailingmoe2 bailingmoe3 bitnet bloom chameleon clip codeshell
    cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2-ocr dflash dots1 dots3note dream eagle3
    eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4
    gemma4-assistant gpt2 gptj gptneox granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text
    internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 laguna lfm2 lfm2moe llada llada-moe llama-embed maincoder
    mamba mamba2 maple mellum mimo2 mistral3 mistral4 modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h
    nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2
    phi3 phimoe plamo plamo2 plamo3 plm pockettts qwen qwen3tts refact rnd1 rwkv6 rwkv6qwen2 rwkv7 smallthinker
    spark2_5 stablelm starcoder starcoder2 t5 t5encoder talkie wavtokenizer-dec xverse
"""
"""Those of llama.cpp's names whose families are not here."""


def test_every_name_is_known_or_listed() -> None:
    gguf = pytest.importorskip("gguf")
    assert {*gguf.MODEL_ARCH_NAMES.values()} <= {*ARCHITECTURES, gguf_encoders.ARCHITECTURE, *OTHERS.split()}
    assert not ARCHITECTURES.keys() & set(OTHERS.split())


def test_what_is_not_here_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for name in OTHERS.split():
        write_gguf(path, {"general.architecture": name, f"{name}.block_count": 2}, {})
        with pytest.raises(UnsupportedError, match=f"architecture '{name}' are not supported") as caught:
            open_checkpoint(path)
        assert caught.value.hint is not None and "chatglm" in caught.value.hint and "hy_v3" in caught.value.hint
