"""`Decoder.forward` is the only way in, so what wraps it sees all of a training step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.training.loss import backward_loss, loss_sum
from landrace.training.packing import MicroBatch


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(decoder: Decoder) -> tuple[float, float, dict[str, Tensor]]:
    micro = MicroBatch(ForwardBatch.packed([[3, 1, 4, 1, 5], [9, 2, 6]]), torch.tensor([1, 4, 1, 5, 9, 2, 6, 5]))
    loss = backward_loss(decoder, micro, divisor=8.0)
    found = {}
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        full = getattr(parameter.grad, "full_tensor", None)
        found[name] = parameter.grad if full is None else full()
    return loss, loss_sum(decoder, micro), found


def test_a_sharded_decoder_has_the_same_gradients(tiny_decoder, one_process: None) -> None:
    plain, sharded = tiny_decoder(), tiny_decoder()
    mesh = init_device_mesh("cpu", (1,))
    for decoder in (plain, sharded):
        decoder.requires_grad_(True)
    for layer in sharded.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    loss, scored, ours = gradients(sharded)
    expected_loss, expected_score, theirs = gradients(plain)
    assert (loss, scored) == (expected_loss, expected_score)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
