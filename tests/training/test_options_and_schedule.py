"""Options are refused by name; the learning rate follows its formula."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from landrace.errors import OptionError
from landrace.training.options import TuneOptions
from landrace.training.schedule import learning_rate, warmup_steps

BAD = {
    "method": ["qlora", None],
    "rank": [0, -1, 1.5, True, "8"],
    "alpha": [0, -1.0, math.nan, math.inf, "1"],
    "targets": [(), ("q",), ("q_proj", "q_proj"), "q_proj"],
    "learning_rate": [0, -1e-3, math.inf, 1e38],
    "epochs": [0, 1.0],
    "max_steps": [0],
    "batch_examples": [0],
    "micro_tokens": [0, 10**20],
    "max_length": [0, 4096],
    "warmup_ratio": [-0.1, 1.1, math.nan],
    "min_lr_ratio": [-0.1, 2],
    "weight_decay": [-1e-9, "0"],
    "clip_norm": [0.0],
    "seed": [-1, 2**63],
    "save_every": [0],
    "keep_checkpoints": [0],
}


def test_every_field_is_checked():
    assert set(BAD) == set(TuneOptions.__dataclass_fields__)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_value_names_the_option(name, value):
    with pytest.raises(OptionError, match=name):
        TuneOptions(**{name: value})


def test_learning_rate_depends_on_the_method():
    assert TuneOptions().peak_learning_rate > TuneOptions(method="full").peak_learning_rate
    assert TuneOptions(learning_rate=3e-4).as_dict()["learning_rate"] == 3e-4


def test_max_length_comes_from_the_model_or_is_refused():
    assert TuneOptions().for_model(512).max_length == 512
    assert TuneOptions(micro_tokens=256).for_model(512).max_length == 256
    with pytest.raises(OptionError, match="max_length"):
        TuneOptions(max_length=600).for_model(512)


def test_options_need_no_torch():
    code = "import sys, landrace.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_schedule_rises_to_the_peak_and_falls_to_the_floor():
    rates = [learning_rate(s, 101, 2.0, warmup_ratio=0.1, min_lr_ratio=0.25) for s in range(101)]
    assert warmup_steps(101, 0.1) == 11
    assert rates[0] == pytest.approx(2.0 / 12)
    assert rates[:12] == sorted(rates[:12]) and rates[11] == 2.0
    assert rates[11:] == sorted(rates[11:], reverse=True)
    assert rates[56] == pytest.approx(2.0 * (0.25 + 0.75 * (1 + math.cos(math.pi * 45 / 89)) / 2))
    assert rates[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_shortest_runs_learn(total):
    for ratio in (0.0, 0.5, 1.0):
        rates = [learning_rate(s, total, 1.0, warmup_ratio=ratio, min_lr_ratio=0.0) for s in range(total)]
        assert max(rates) == 1.0


def test_cosine_equals_torch():
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=3.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=19, eta_min=0.3)
    for step in range(20):
        ours = learning_rate(step, 20, 3.0, warmup_ratio=0.0, min_lr_ratio=0.1)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
