"""Embeddings of n-grams against transformers' own module, and however a sequence is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from landrace.kernels.ngrams import NGrams
from landrace.kernels.reference.ngrams import gated_values, ngram_rows
from landrace.models.families import read_config

transformers = pytest.importorskip("transformers")

EOS = 2
CONFIG = {
    "vocab_size": 128, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8, "eos_token_id": [EOS, 1], "ple_layer_ids": [2, 1], "ple_embed_dim": 24, "ngram_size": 4,
    "heads_per_ngram": 2, "ngram_vocab_size_base": 30, "make_ngram_vocab_size_divisible_by": 8, "hc_count": 2,
    "split_ngram_parts": 1, "seed": 77,
}  # fmt: skip


def ids() -> Tensor:
    found = torch.randint(3, 128, (40,), generator=torch.Generator().manual_seed(0))
    found[[0, 7, 9, 10, 30]] = EOS
    return found


@pytest.mark.parametrize("place", [0, 1])
def test_rows_are_those_of_transformers(place: int) -> None:
    from transformers.models.qwen4_exp.modeling_qwen4_exp import Qwen4ExpTextNGramEmbedding

    module = Qwen4ExpTextNGramEmbedding(transformers.Qwen4ExpTextConfig(**CONFIG), 24, place, place)
    spec = read_config({"model_type": "qwen4_exp_text", **CONFIG}).spec.layers[place].ngrams
    assert spec is not None
    form = spec.form
    assert form.multipliers == tuple(module.layer_multipliers.tolist())
    assert form.sizes == tuple(module.ngram_heads_vocab_sizes.tolist())
    assert (spec.rows, spec.width // len(form.sizes)) == tuple(module.ngram_embedding.weight.shape)
    rows, last = ngram_rows(ids(), (0, 40), None, form)
    theirs = module(ids()[None], None)[0]
    assert torch.equal(module.ngram_embedding.weight[rows].flatten(1), theirs)
    assert last.tolist() == [(ids()[[39, 38, 37]] + 1).tolist()]


@pytest.mark.parametrize("cut", [1, 2, 8, 10, 39])
def test_a_sequence_may_be_cut_anywhere(cut: int) -> None:
    form = NGrams((3, 5, 7, 11), (13, 17, 19, 23, 29, 31), EOS)
    whole, end = ngram_rows(ids(), (0, 40), None, form)
    first, between = ngram_rows(ids()[:cut], (0, cut), None, form)
    rest, last = ngram_rows(ids()[cut:], (0, 40 - cut), between, form)
    assert torch.equal(torch.cat((first, rest)), whole) and torch.equal(last, end)


def test_values_are_gated_by_each_stream() -> None:
    draw = torch.Generator().manual_seed(1)
    keys, queries, values = (torch.randn(5, n, generator=draw) for n in (12, 12, 4))
    keys[2] = 0
    found = gated_values(keys, queries, values, 3).view(5, 3, 4)
    for row in range(5):
        for stream in range(3):
            met = (keys.view(5, 3, 4)[row, stream] @ queries.view(5, 3, 4)[row, stream] / 2).item()
            root = 0.0 if met == 0 else max(abs(met), 1e-6) ** 0.5 * (1 if met > 0 else -1)
            expected = values[row] / (1 + torch.tensor(-root).exp())
            torch.testing.assert_close(found[row, stream], expected)
