"""Residual streams against transformers' own modules, and what a mixing of them is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from landrace.kernels.reference.streams import collapsed, doubly_stochastic, spread, stream_weights
from landrace.kernels.streams import HyperConnections

transformers = pytest.importorskip("transformers")

COUNT, WIDTH, EPS = 3, 12, 3e-3
SIZES: dict[str, Any] = {"hidden_size": WIDTH, "rms_norm_eps": EPS, "hc_mult": COUNT, "hc_eps": 0.02}


def filled(module: Any) -> Any:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return module


def rows() -> Tensor:
    return torch.randn(9, COUNT * WIDTH, generator=torch.Generator().manual_seed(1)) * 3


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("kind", ["deepseek_v4", "glm5_next"])
def test_streams_that_mix(kind: str, iterations: int) -> None:
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4
    from transformers.models.glm5_next import modeling_glm5_next as glm

    of_v4 = kind == "deepseek_v4"
    config = (transformers.DeepseekV4Config if of_v4 else glm.Glm5NextTextConfig)(**SIZES, hc_sinkhorn_iters=iterations)
    module = filled((v4.DeepseekV4HyperConnection if of_v4 else glm.Glm5NextTextHyperConnection)(config))
    streams = rows()
    with torch.no_grad():
        post, comb, row = module(streams.view(1, -1, COUNT, WIDTH))
    form = HyperConnections(COUNT, 0.02, iterations=iterations)
    weights = stream_weights(streams, module.fn, module.base, module.scale, form, EPS)
    torch.testing.assert_close(collapsed(streams, COUNT, weights), row[0])
    branch = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2))
    expected = post[0, ..., None] * branch[:, None] + comb[0].mT @ streams.view(-1, COUNT, WIDTH)
    torch.testing.assert_close(spread(streams, branch, weights, COUNT, COUNT, True), expected.flatten(1))


def test_streams_that_do_not_mix() -> None:
    from transformers.models.hy_v4 import modeling_hy_v4 as v4

    config = transformers.HYV4Config(**SIZES, hc_magnitude=1.7)
    module, streams = filled(v4.HYV4HyperConnection(config)), rows()
    with torch.no_grad():
        post, row = module(streams.view(1, -1, COUNT, WIDTH))
    form = HyperConnections(COUNT, 0.02, 1.7, 0.02)
    weights = stream_weights(streams, module.fn, module.base, module.scale, form, EPS)
    torch.testing.assert_close(collapsed(streams, COUNT, weights), row[0])
    branch = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2))
    expected = post[0, ..., None] * branch[:, None] + streams.view(-1, COUNT, WIDTH)
    torch.testing.assert_close(spread(streams, branch, weights, COUNT, COUNT, False), expected.flatten(1))


def test_the_last_row() -> None:
    from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

    module, streams = filled(v4.DeepseekV4HyperHead(transformers.DeepseekV4Config(**SIZES))), rows()
    with torch.no_grad():
        row = module(streams.view(1, -1, COUNT, WIDTH))
    form = HyperConnections(COUNT, 0.02)
    weights = stream_weights(streams, module.hc_fn, module.hc_base, module.hc_scale, form, EPS)
    assert weights.shape == (9, COUNT)
    torch.testing.assert_close(collapsed(streams, COUNT, weights), row[0])
    torch.testing.assert_close(collapsed(streams, COUNT), streams.view(-1, COUNT, WIDTH).mean(1))


def test_rows_and_columns_of_a_mixing_sum_to_one() -> None:
    logits = torch.randn(7, 4, 4, generator=torch.Generator().manual_seed(3)) * 4
    mix = doubly_stochastic(logits, HyperConnections(4, 1e-6, iterations=200))
    for axis in (-1, -2):
        torch.testing.assert_close(mix.sum(axis), torch.ones(7, 4), rtol=0, atol=1e-3)
    assert (mix > 0).all()
