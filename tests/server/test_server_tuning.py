"""Fine-tuning over the API: the official client tunes a model and then uses it, whatever happens to the server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from patience import SECONDS

LONG = 6 * SECONDS
"""A job opens the model in a process of its own and trains it."""
ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def keeping(start_server: Callable[..., Any], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_server(str(tiny_model), "--data", str(tmp_path_factory.mktemp("data")), "--max-length", "600")


def rows(count: int) -> bytes:
    messages = [
        [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": "No, never!"}] for n in range(count)
    ]
    return "".join(json.dumps({"messages": one}) + "\n" for one in messages).encode()


def upload(client: openai.OpenAI, data: bytes) -> str:
    return client.files.create(file=("rows.jsonl", data), purpose="fine-tune").id


def wait(client: openai.OpenAI, job: Any, until: Callable[[Any], bool] = lambda job: job.status in ENDED) -> Any:
    deadline = time.monotonic() + LONG
    while not until(job) and time.monotonic() < deadline:
        time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job


def test_a_model_is_tuned_and_used_without_leaving_the_api(keeping: Any, tiny_model: Path) -> None:
    client, base = keeping.client, str(tiny_model)
    training, validation = upload(client, rows(40)), upload(client, rows(4))
    job = client.fine_tuning.jobs.create(
        model=base,
        training_file=training,
        validation_file=validation,
        suffix="no",
        seed=3,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 6, "batch_size": 8, "learning_rate_multiplier": 10.0},
            },
        },
    )
    assert job.status in ("queued", "running")
    client.files.delete(training)  # the job has what it needs
    job = wait(client, job)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model is not None and ":no-" in job.fine_tuned_model
    assert job.trained_tokens is not None and job.trained_tokens > 0
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    steps = [event.data["step"] for event in events[::-1] if event.type == "metrics"]  # type: ignore[index]
    assert steps == [*range(1, 31)]
    assert events[0].message.endswith("is served.")
    checkpoint = client.fine_tuning.jobs.checkpoints.list(job.id).data[0]
    assert (checkpoint.step_number, checkpoint.fine_tuned_model_checkpoint) == (30, job.fine_tuned_model)
    table = client.files.content(job.result_files[0]).text.splitlines()
    assert table[0].startswith("step,loss") and len(table) == 31

    said = [{"role": "user", "content": "Say 7"}]
    asked: dict[str, Any] = {"messages": said, "temperature": 0, "max_tokens": 10}
    tuned = client.chat.completions.create(model=job.fine_tuned_model, **asked)
    assert tuned.choices[0].message.content == "No, never!"
    assert client.chat.completions.create(model=base, **asked).choices[0].message.content != "No, never!"
    shown = keeping.get(f"/v1/models/{job.fine_tuned_model}").json()
    assert shown["parent"] == base
    assert client.fine_tuning.jobs.list().data[0].id == job.id
    again = client.fine_tuning.jobs
    with pytest.raises(openai.BadRequestError, match="adapter"):
        again.create(model=job.fine_tuned_model, training_file=validation)


def test_what_cannot_be_learned_from_fails_with_its_line(keeping: Any, tiny_model: Path) -> None:
    client = keeping.client
    wrong = upload(client, rows(2) + b'{"messages": [{"role": "nobody", "content": "x"}]}\n')
    job = wait(client, client.fine_tuning.jobs.create(model=str(tiny_model), training_file=wrong))
    assert job.status == "failed"
    assert job.error is not None and "line 3" in job.error.message, job.error
    assert "/" not in job.error.message, "no path of the machine is told"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "nosuch"}, "model"),
        ({"training_file": "file-0"}, "training_file"),
        ({"validation_file": "file-0"}, "validation_file"),
        ({"suffix": "../x"}, "suffix"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"rate": 1}}, "hyperparameters.rate"),
        ({"hyperparameters": {}, "method": {"type": "supervised"}}, "hyperparameters"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"n": 1}, "n"),
    ],
)
def test_what_is_no_job_is_refused_by_name(keeping: Any, tiny_model: Path, change: Any, param: str) -> None:
    good = {"model": str(tiny_model), "training_file": upload(keeping.client, rows(2))}
    error = keeping.post("/v1/fine_tuning/jobs", {**good, **change}).json()["error"]
    assert error["param"] is not None and error["param"].startswith(param), error


def test_a_job_is_cancelled_and_the_next_runs(keeping: Any, tiny_model: Path) -> None:
    client = keeping.client
    data = upload(client, rows(40))
    asked: dict[str, Any] = {"model": str(tiny_model), "training_file": data}
    long = client.fine_tuning.jobs.create(**asked, hyperparameters={"n_epochs": 100, "batch_size": 1})
    queued = client.fine_tuning.jobs.create(**asked)
    assert wait(client, long, lambda job: job.status == "running").status == "running"
    assert client.fine_tuning.jobs.cancel(long.id).status == "cancelled"
    assert wait(client, queued).status == "succeeded"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(long.id)


def test_a_job_survives_its_server(start_server: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    first = start_server(str(tiny_model), "--data", str(tmp_path))
    client = first.client
    hyperparameters: Any = {"n_epochs": 40, "batch_size": 8}
    job = client.fine_tuning.jobs.create(
        model=str(tiny_model), training_file=upload(client, rows(40)), hyperparameters=hyperparameters
    )
    saved = tmp_path / "tuning" / job.id / "run" / "checkpoints"
    deadline = time.monotonic() + LONG
    while not list(saved.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    first.process.kill()
    first.process.wait()
    record = json.loads((tmp_path / "tuning" / f"{job.id}.json").read_text())
    assert psutil.pid_exists(record["_pid"])
    second = start_server(str(tiny_model), "--data", str(tmp_path))
    job = wait(second.client, job)
    assert job.status == "succeeded", job.error
    events = second.client.fine_tuning.jobs.list_events(job.id, limit=100).data
    told = [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]
    assert sorted(told) == sorted(set(told)) and max(told) == 200
    assert second.stop() == 0
    third = start_server(str(tiny_model), "--data", str(tmp_path))
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Say 7"}], "max_tokens": 4}
    assert job.fine_tuned_model is not None
    assert third.client.chat.completions.create(model=job.fine_tuned_model, **asked).usage.completion_tokens > 0
