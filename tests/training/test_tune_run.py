"""Whole runs: they learn, stop and resume to the same bits, and refuse to continue something else."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from landrace.errors import CheckpointError, DataError, OptionError
from landrace.models.batch import AdapterRows
from landrace.training.checkpoint import newest_checkpoint
from landrace.training.data import ChatRow, CompletionRow
from landrace.training.interrupt import TuneInterrupted
from landrace.training.log import StepReport, draw_loss, read_log
from landrace.training.loss import token_logprobs
from landrace.training.optimizer import DivergedError
from landrace.training.options import TuneOptions
from landrace.training.trainee import weights_fingerprint
from landrace.training.trainer import tune

ROWS = [CompletionRow(f"f, line {n}", f"say {n}", f"{n * n}") for n in range(22)]
# 6 steps an epoch, so 10 steps end in the middle of the second one.
OPTIONS = {
    "lora": TuneOptions(epochs=2, max_steps=10, batch_examples=4, rank=4, alpha=8.0, learning_rate=1e-2, seed=3),
    "full": TuneOptions(method="full", epochs=2, max_steps=10, batch_examples=4, learning_rate=1e-3, weight_decay=0.1),
}
METHODS = pytest.mark.parametrize("method", ["lora", "full"])


class KilledError(Exception):
    pass


def kill_after(step):
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise KilledError

    return on_step


def interrupt_after(step):
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    return on_step


def same_bits(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@METHODS
def test_resumed_weights_are_bit_equal(tiny_decoder, byte_tokenizer, tmp_path, method):
    """10 steps straight = 4, killed, resumed, interrupted after 7 (in mid-epoch), resumed."""
    options, tokenizer = replace(OPTIONS[method], save_every=2), byte_tokenizer()
    straight = tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "a")
    with pytest.raises(KilledError):
        tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "b", on_step=kill_after(5))
    with pytest.raises(TuneInterrupted) as stopped:
        tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "b", on_step=interrupt_after(7), resume=True)
    assert stopped.value.step == 7 and "--resume" in stopped.value.hint
    seen = []
    resumed = tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "b", on_step=seen.append, resume=True)
    assert [report.step for report in seen] == [8, 9, 10]
    assert same_bits(resumed.tensors, straight.tensors)
    assert [r.step for r in resumed.steps] == list(range(1, 11)) == [r.step for r in read_log(tmp_path / "b/log.jsonl")]
    assert [r.loss for r in resumed.steps] == [r.loss for r in straight.steps]


def test_same_seed_same_bits_other_seed_others(tiny_decoder, byte_tokenizer, tmp_path):
    a, b, c = (
        tune(tiny_decoder(), byte_tokenizer(), ROWS, replace(OPTIONS["lora"], seed=seed), out=tmp_path / name)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same_bits(a.tensors, b.tensors)
    assert not same_bits(a.tensors, c.tensors)


@METHODS
def test_it_learns_its_rows(tiny_decoder, byte_tokenizer, tmp_path, method):
    rows = [CompletionRow("f, line 1", "colour?", " blue"), CompletionRow("f, line 2", "number?", " nine")]
    options = TuneOptions(method=method, epochs=60, learning_rate=1e-2, batch_examples=2)
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.norm.weight.mul_(6)  # so that the frozen output layer can be sure of a token
    result = tune(decoder, byte_tokenizer(), rows, options, out=tmp_path / "run", validation=rows[:1])
    assert result.steps[0].loss > 4
    assert result.steps[-1].loss < 0.1 and result.steps[-1].validation_loss < 0.1
    assert all(step.validation_loss is not None for step in result.steps)


def test_lora_leaves_the_decoder_as_it_was_and_its_adapter_does_the_work(tiny_decoder, byte_tokenizer, tmp_path):
    decoder, tokenizer = tiny_decoder(), byte_tokenizer()
    names, print_before = list(dict(decoder.named_tensors())), weights_fingerprint(decoder)
    result = tune(decoder, tokenizer, ROWS, OPTIONS["lora"], out=tmp_path / "run")
    assert list(dict(decoder.named_tensors())) == names and weights_fingerprint(decoder) == print_before
    assert not any(p.requires_grad or p.grad is not None for p in decoder.parameters())
    ids = [tokenizer.encode("say 3") + tokenizer.encode("9<|im_end|>")]
    before = token_logprobs(decoder, ids, first=[5])[0].sum()
    slot = decoder.add_adapter(result.lora, result.tensors)
    after = token_logprobs(decoder, ids, first=[5], adapters=(AdapterRows(slot, None),))[0].sum()
    assert after > before + 1


def test_full_tuning_changes_every_weight_in_place(tiny_decoder, byte_tokenizer, tmp_path):
    decoder, untouched = tiny_decoder(), dict(tiny_decoder().named_tensors())
    result = tune(decoder, byte_tokenizer(), ROWS, OPTIONS["full"], out=tmp_path / "run")
    assert same_bits(result.tensors, dict(decoder.named_tensors()))
    assert not any(torch.equal(result.tensors[name], before) for name, before in untouched.items())
    assert not any(p.requires_grad for p in decoder.parameters())


def test_a_failed_run_leaves_the_decoder_as_it_was(tiny_decoder, byte_tokenizer, tmp_path):
    decoder = tiny_decoder()
    names = list(dict(decoder.named_tensors()))
    with pytest.raises(KilledError):
        tune(decoder, byte_tokenizer(), ROWS, OPTIONS["lora"], out=tmp_path / "run", on_step=kill_after(1))
    assert list(dict(decoder.named_tensors())) == names
    assert not any(p.requires_grad for p in decoder.parameters())


def test_resume_names_what_differs(tiny_decoder, byte_tokenizer, tmp_path):
    out, options, tokenizer = tmp_path / "run", OPTIONS["lora"], byte_tokenizer()
    with pytest.raises(TuneInterrupted):
        tune(tiny_decoder(), tokenizer, ROWS, options, out=out, on_step=interrupt_after(3))

    def refusal(decoder, rows, options):
        with pytest.raises(OptionError) as caught:
            tune(decoder, tokenizer, rows, options, out=out, resume=True)
        return caught.value.message

    changed = replace(options, seed=4, rank=8)
    assert "rank (was 4, is 8); seed (was 3, is 4)" in refusal(tiny_decoder(), ROWS, changed)
    assert "training data" in refusal(tiny_decoder(), ROWS[1:], options)
    message = refusal(tiny_decoder(seed=1), ROWS, options)
    assert "the base model" in message and "data" not in message
    free = replace(options, save_every=1, keep_checkpoints=1)
    tune(tiny_decoder(), tokenizer, ROWS, free, out=out, resume=True)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000009"]


def test_a_run_never_overwrites_another(tiny_decoder, byte_tokenizer, tmp_path):
    options, tokenizer = OPTIONS["lora"], byte_tokenizer()
    with pytest.raises(OptionError, match="no checkpoint to resume"):
        tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "run", resume=True)
    tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "run")
    with pytest.raises(OptionError, match="already holds a training run"):
        tune(tiny_decoder(), tokenizer, ROWS, options, out=tmp_path / "run")


def test_checkpoints_are_whole_or_absent_and_few(tiny_decoder, byte_tokenizer, tmp_path, monkeypatch):
    out, options = tmp_path / "run", replace(OPTIONS["lora"], save_every=2)
    with pytest.raises(KilledError):
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out, on_step=kill_after(7))
    folder = out / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000006"]
    (folder / ".step-00000008.killed.part" / "new").mkdir(parents=True)
    resumed = tmp_path / "resumed"
    shutil.copytree(out, resumed)
    tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=resumed, resume=True)
    assert not list((resumed / "checkpoints").glob(".*"))

    from landrace.checkpoints import folder as writing

    def killed(path):
        raise KilledError

    monkeypatch.setattr(writing, "flush", killed)
    with pytest.raises(KilledError):
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out, resume=True)
    assert newest_checkpoint(folder).name == "step-00000006"


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_checkpoint_is_refused(tiny_decoder, byte_tokenizer, tmp_path, file, damage):
    out, options = tmp_path / "run", OPTIONS["lora"]
    with pytest.raises(TuneInterrupted) as stopped:
        tune(tiny_decoder(), byte_tokenizer(), ROWS, options, out=out, on_step=interrupt_after(1))
    path = stopped.value.checkpoint / file
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    if damage == "other":
        path.write_bytes(b"[]" if file == "state.json" else (1).to_bytes(8, "little") + b"{")
    decoder = tiny_decoder()
    with pytest.raises(CheckpointError, match="damaged"):
        tune(decoder, byte_tokenizer(), ROWS, options, out=out, resume=True)
    assert list(dict(decoder.named_tensors())) == list(dict(tiny_decoder().named_tensors()))


def test_ctrl_c_finishes_the_step_and_saves(tiny_decoder, byte_tokenizer, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def on_step(report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TuneInterrupted, match="Stopped after step 2 of 10") as stopped:
        tune(tiny_decoder(), byte_tokenizer(), ROWS, OPTIONS["lora"], out=tmp_path / "run", on_step=on_step)
    assert json.loads((stopped.value.checkpoint / "state.json").read_text())["step"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_divergence_names_the_step(tiny_decoder, byte_tokenizer, tmp_path):
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.norm.weight[0] = float("nan")
    with pytest.raises(DivergedError, match="loss became nan in step 1"):
        tune(decoder, byte_tokenizer(), ROWS, OPTIONS["lora"], out=tmp_path / "run")


def test_what_cannot_be_trained_is_refused(tiny_decoder, byte_tokenizer, tmp_path):
    tokenizer = byte_tokenizer()
    with pytest.raises(OptionError, match="max_length is 257"):
        tune(tiny_decoder(), tokenizer, ROWS, TuneOptions(max_length=257), out=tmp_path / "a")
    with pytest.raises(DataError, match="no rows"):
        tune(tiny_decoder(), tokenizer, [], TuneOptions(), out=tmp_path / "b")
    decoder = tiny_decoder()
    decoder.dtype = torch.bfloat16
    with pytest.raises(OptionError, match="float32"):
        tune(decoder, tokenizer, ROWS, TuneOptions(method="full"), out=tmp_path / "c")


def test_the_report_counts_what_was_left_out(tiny_decoder, byte_tokenizer, tmp_path):
    rows = [
        *ROWS,
        CompletionRow("f, line 99", "x" * 300, "y"),
        ChatRow("f, line 100", ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})),
    ]
    result = tune(tiny_decoder(), byte_tokenizer(), rows, replace(OPTIONS["lora"], max_steps=1), out=tmp_path / "run")
    assert (result.data.rows, result.data.answers, result.data.too_long) == (24, 23, 1)
    assert result.data.too_long_rows == ("f, line 99",)


def test_log_and_picture(tiny_decoder, byte_tokenizer, tmp_path):
    out = tmp_path / "run"
    result = tune(tiny_decoder(), byte_tokenizer(), ROWS, OPTIONS["lora"], out=out, validation=ROWS[:2])
    assert tuple(read_log(out / "log.jsonl")) == result.steps
    assert [r.step for r in result.steps if r.validation_loss is not None] == [6, 10]
    assert max(r.learning_rate for r in result.steps) == 1e-2
    for name, magic in (("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml")):
        draw_loss(list(result.steps), out / name)
        assert (out / name).read_bytes().startswith(magic)
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "cut o')
    assert len(read_log(out / "log.jsonl")) == 10
    (out / "log.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match="not a training log"):
        read_log(out / "log.jsonl")
