"""The whole verb on a tiny model, its table and its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from said import without_progress

from landrace.bench.bench import bench_model
from landrace.bench.report import BenchReport, LeftOut
from landrace.bench.table import cells, columns, footer, headline, plain_table
from landrace.bench.workload import BenchOptions
from landrace.errors import DataError, OptionError
from landrace.kernels.machine_limits import MachineLimits

OPTIONS = BenchOptions(threads=1, pairs=2, quick=True, only=("prefill", "decode", "ttft"))


@pytest.fixture(scope="module")
def report(tiny_folder: Path, machine: MachineLimits) -> BenchReport:
    measured = [machine, replace(machine, read_gb_s=20.0)]
    options = replace(OPTIONS, against=("transformers",))
    pytest.importorskip("transformers")
    return bench_model(str(tiny_folder), options, lambda: measured.pop(0), lambda done, total, name: None)


def test_a_run_has_every_row_or_says_why_not(report: BenchReport, tiny_folder: Path) -> None:
    assert [result.name for result in report.results] == [
        "prefill 128",
        "prefill 512",
        "decode 1 stream, context 128",
        "decode 16 streams, context 128",
    ]
    assert report.left_out == (LeftOut("first token of 1000", "the model takes at most 600 tokens"),)
    assert all(len(found) == 2 for result in report.results for found in result.samples.values())
    assert [sorted(result.samples) for result in report.results] == [
        ["landrace", "transformers"],
        ["landrace", "transformers"],
        ["landrace", "transformers"],
        ["landrace"],
    ]
    assert report.quick and report.provenance["weights_sha256"] is not None
    assert report.limits["read_gb_s"] == 10.0
    assert report.model_facts["kernels"] in headline(report)[0]
    assert any("20.0 GB/s after" in warning for warning in report.warnings)
    assert report.versions["transformers"]


def test_json_holds_everything_and_comes_back(report: BenchReport) -> None:
    document = json.loads(json.dumps(report.as_dict()))
    assert BenchReport.from_dict(document) == report
    row = document["results"][0]
    assert row["runners"]["landrace"]["median"] == pytest.approx(sum(row["runners"]["landrace"]["samples"]) / 2)
    assert {"median", "low", "high"} == set(row["ratios"]["transformers"])
    assert {"commit", "machine", "weights_sha256"} <= set(document["provenance"])
    with pytest.raises(DataError, match="schema"):
        BenchReport.from_dict({**document, "schema": 0})


def test_the_table_has_a_cell_for_everything(report: BenchReport) -> None:
    assert columns(report)[-2:] == ["transformers", "ratio"]
    lines = cells(report)
    assert [line[0] for line in lines] == [result.name for result in report.results]
    assert lines[0][-1].startswith(f"{report.results[0].ratio('transformers').median:.2f}x (")
    assert lines[-1][-2:] == ["", ""]
    head, *rows = plain_table(report).splitlines()
    assert head.index("tokens/s") if "tokens/s" in head else "unit" in head
    assert len(rows) == len(lines)
    assert any(line.startswith("warning: The read bandwidth") for line in headline(report))
    assert headline(report)[2].startswith("A first look of 2")
    assert footer(report) == ["left out: first token of 1000: the model takes at most 600 tokens"]


def test_the_share_of_a_prefix_hit_is_told(report: BenchReport) -> None:
    first = report.results[0]
    cold = replace(first, name="first token of 9, cold", unit="ms", samples={"landrace": [200.0, 200.0]})
    cached = replace(cold, name="first token of 9, prefix cached", samples={"landrace": [7.0, 9.0]})
    told = footer(replace(report, results=(cold, cached), left_out=()))
    assert told == ["First token with the prefix cached: 4.0% of cold."]


def test_rows_that_do_not_fit_into_memory_are_left_out(
    tiny_folder: Path, machine: MachineLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landrace.bench.bench.available_memory", lambda: 1_000_000)
    options = replace(OPTIONS, only=("decode",), pairs=1)
    found = bench_model(str(tiny_folder), options, lambda: machine, lambda done, total, name: None)
    assert [result.name for result in found.results] == ["decode 1 stream, context 128"]
    assert [item.what for item in found.left_out] == ["decode 16 streams, context 128"]


def test_unknown_peers_are_refused_before_anything_is_measured(tiny_folder: Path) -> None:
    def fail() -> MachineLimits:
        raise AssertionError("measured")

    with pytest.raises(OptionError, match="no peer"):
        bench_model(str(tiny_folder), replace(OPTIONS, against=("vllm",)), fail, lambda done, total, name: None)


def run_bench(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LANDRACE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "landrace", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_verb_from_end_to_end(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = run_bench(
        *(str(tiny_folder), "--quick", "--pairs", "1", "--threads", "1", "--only", "load,prefill", "--json", str(file)),
        home=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "A first look of 1 alternating pair." in done.stdout
    names = ["load", "peak memory", "memory beyond weights and cache", "prefill 128", "prefill 512"]
    assert all(any(line.startswith(name) for line in done.stdout.splitlines()) for name in names)
    found = BenchReport.from_dict(json.loads(file.read_text()))
    assert [result.name for result in found.results] == names
    assert found.limits["threads"] == 1
    assert not {word for word in ("\x1b", "…") if word in done.stdout}


@pytest.mark.parametrize(
    "arguments",
    [("--pairs", "2"), ("--against", "vllm"), ("--only", "speed"), ("--weights", "int3", "--quick")],
    ids=" ".join,
)
def test_wrong_options_are_a_sentence(arguments: tuple[str, ...], tiny_folder: Path, tmp_path: Path) -> None:
    done = run_bench(str(tiny_folder), *arguments, home=tmp_path)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert without_progress(done.stderr).startswith("error: ")
    assert "Traceback" not in done.stderr and done.stdout == ""
