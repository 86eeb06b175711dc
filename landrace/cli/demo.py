"""`demo`: the whole story on a small real model, each step with the command that does it by hand."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landrace.checkpoints.store import ModelStore, default_home
from landrace.cli.compare import make_comparison, print_comparison
from landrace.cli.console import human_bytes, out, styled
from landrace.cli.evaluate import scores_table
from landrace.cli.progress import byte_progress, spinner
from landrace.cli.systems import BASELINE, Measurement, System, measure, record_scores, recorded
from landrace.cli.tune import run_tuning, summary, training_rows
from landrace.errors import DataError, LandraceError, OptionError
from landrace.training.options import TuneOptions

if TYPE_CHECKING:
    from landrace.evaluation.results import Evaluation
    from landrace.evaluation.rows import Row
    from landrace.evaluation.task import Task

MODEL = "smollm2"
TASK = "records"
ADAPTER = "tuned"
SHOTS = 6
EPOCHS = 2
LEARNING_RATE = 2e-3
BATCH_EXAMPLES = 16
START_SECONDS = 120


def demo(
    task: Annotated[
        Path | None, typer.Option(help="Another task file with training rows; default: records out of tickets.")
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes; replaced.")] = Path(
        "runs/demo"
    ),
    price: Annotated[float, typer.Option(help="What this machine costs an hour, in USD.")] = 0.10,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = EPOCHS,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    port: Annotated[int, typer.Option(help="Port of the server; 0 picks a free one.")] = 0,
) -> None:
    """Pull a model, measure it, tune it, measure it again and serve it: the whole story in minutes."""
    _check_extras()
    from landrace.evaluation.task import load_task

    began = time.perf_counter()
    task_file = task or _example_task()
    loaded = load_task(task_file)
    loaded.check_guided()
    _clear(out_folder)
    adapter = out_folder / "adapter"
    tuned_system = System(f"{MODEL}+{adapter}", MODEL, adapter)
    tuned = Measurement(seed=seed, guided=True)
    untuned = replace(tuned, shots=SHOTS)
    asked = f"--guided --shots {SHOTS}"
    with recorded(out_folder, "demo", {"task": str(task_file), "price": price, "epochs": epochs, "seed": seed}) as (
        ledger,
        run,
    ):
        _step(1, "Pull a model", f"landrace pull {MODEL}")
        _pull()

        _step(2, f"Measure it on {loaded.name}, with {SHOTS} examples in the prompt",
              f"landrace evaluate {MODEL} {task_file} {asked}")  # fmt: skip
        before = measure(System(MODEL, MODEL, None), loaded, untuned)
        out.print(scores_table(before))

        _step(3, "Tune a LoRA adapter on the training rows",
              f"landrace tune {MODEL} {task_file} --epochs {epochs} --lr {LEARNING_RATE} "
              f"--batch-examples {BATCH_EXAMPLES} --seed {seed} --out {out_folder}")  # fmt: skip
        options = TuneOptions(epochs=epochs, learning_rate=LEARNING_RATE, batch_examples=BATCH_EXAMPLES, seed=seed)
        result, _ = run_tuning(MODEL, training_rows(task_file), options, out_folder)
        for line in summary(result):
            out.print(line)
        out.print(f"Loss curve: {out_folder / 'loss.png'}")

        _step(4, "Measure again, and compare",
              f"landrace compare {MODEL} {MODEL}+{adapter} {BASELINE} --task {task_file} {asked} "
              f"--price {price}")  # fmt: skip
        after = measure(tuned_system, loaded, tuned)
        baseline = measure(System(BASELINE, BASELINE, None), loaded, tuned)
        evaluations = [before, after, baseline]
        for evaluation in evaluations:
            evaluation.save(out_folder)
            record_scores(ledger, run, evaluation)
        with spinner("comparing"):
            comparison = make_comparison(
                evaluations,
                out_folder,
                price=price,
                title=f"{MODEL} on {loaded.name}, before and after tuning",
                losses=[(report.step, report.loss) for report in result.steps],
            )
        print_comparison(comparison)

        command = ["serve", MODEL, "--adapter", f"{ADAPTER}={adapter}"]
        _step(5, "Serve it, and ask through the OpenAI client", f"landrace {shlex.join(command)}")
        _ask_server(command, port, out_folder, loaded, after)
    report = out_folder / "report.html"
    out.print()
    out.print(styled(f"Done in {time.perf_counter() - began:.0f} s. The report: ", (report, "bold")))
    out.print(styled("Keep the server up with: ", (f"landrace {shlex.join(command)}", "bold")))
    out.print(styled("Then chat with both models, side by side, at ", ("http://localhost:8000", "bold"), "."))


def _check_extras() -> None:
    import importlib.util

    absent = [
        package for module, package in (("sklearn", "scikit-learn"), ("openai", "openai"))
        if importlib.util.find_spec(module) is None
    ]  # fmt: skip
    if absent:
        raise LandraceError(
            f"The demo also needs {' and '.join(absent)}.", hint="Install them with: pip install 'landrace[demo]'"
        )


def _example_task() -> Path:
    """The tickets lie in the checkout, and in an installed package inside of it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "examples", package / "examples"):
        path = folder / TASK / "task.json"
        if path.exists():
            return _shortest(path)
    raise DataError("The example tickets are not here.", hint="Pass a task file of your own with --task.")


def _shortest(path: Path) -> Path:
    """Relative to where the person stands, when that is inside."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _clear(folder: Path) -> None:
    """Removes what an earlier demo left, and never anything else."""
    if not folder.is_dir():
        return
    if not (folder / "log.jsonl").exists() and any(folder.iterdir()):
        raise OptionError(
            f"{folder} holds something that is not an earlier demo.", hint="Choose another folder with --out."
        )
    shutil.rmtree(folder)


def _step(number: int, what: str, by_hand: str) -> None:
    out.print()
    out.rule(styled((f"{number} of 5  {what}", "bold")), align="left")
    out.print(f"by hand: {by_hand}", style="dim", soft_wrap=True)


def _pull() -> None:
    with byte_progress() as progress:
        stored = ModelStore(default_home()).pull(MODEL, progress)
    out.print(f"{stored.name}: {human_bytes(stored.size)}, {stored.licence}, from {stored.source}")


def _ask_server(command: list[str], port: int, folder: Path, task: Task, measured: Evaluation) -> None:
    """Starts the server as a person would, asks it one held-out row, and ends it."""
    with spinner("loading the client"):
        from openai import OpenAI

    row = task.load().rows[0]
    with _server(command, port or _free_port(), folder) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        messages: Any = task.messages(row)
        started = time.perf_counter()
        with spinner("waiting for the answer"):
            reply = client.chat.completions.create(
                model=ADAPTER,
                messages=messages,
                temperature=0,
                max_tokens=task.max_tokens,
                extra_body=_guided(task, row),
            )
        seconds = time.perf_counter() - started
    text = reply.choices[0].message.content or ""
    offline = next(answer.answer for answer in measured.rows if answer.id == row.id)
    out.print(f"asked   {messages[-1]['content']}")
    out.print(f"replied {text!r} in {seconds:.2f} s; right is {row.expected[0]!r}")
    same = "the same" if text == offline else f"not the same ({offline!r})"
    out.print(f"The measured adapter answered {same} in step 4.")


def _guided(task: Task, row: Row) -> dict[str, Any]:
    """What holds a served answer to what measured answers were held to."""
    guide = task.guide(row)
    if guide.kind == "choice":
        return {"structured_outputs": {"choice": json.loads(guide.source)}}
    schema = {"name": "answer", "schema": json.loads(guide.source), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


@contextmanager
def _server(command: list[str], port: int, folder: Path) -> Iterator[str]:
    import urllib.error
    import urllib.request

    url = f"http://127.0.0.1:{port}"
    log_path = folder / "server.log"
    with log_path.open("w") as log:
        arguments = [sys.executable, "-m", "landrace", *command, "--port", str(port)]
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        try:
            with spinner("starting the server"):
                deadline = time.monotonic() + START_SECONDS
                while True:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise LandraceError("The server did not start.", hint=f"Its log is {log_path}.")
                    try:
                        urllib.request.urlopen(f"{url}/health", timeout=2).close()
                        break
                    except (urllib.error.URLError, OSError):
                        time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
