"""Turns, medians and ratios; the options and the rows they ask for."""

from __future__ import annotations

import pytest

from landrace.bench.busy import OthersWatch, available_memory, busy_warnings
from landrace.bench.pairs import Ratio, alternate, pair_ratio
from landrace.bench.peers import check_peers
from landrace.bench.report import Limit, Result
from landrace.bench.workload import BenchOptions, DecodeRow, LoadRow, PrefillRow, fits_length, random_prompt, rows_of
from landrace.errors import OptionError


def test_everybody_takes_turns() -> None:
    calls: list[tuple[str, int]] = []

    def run(name: str) -> object:
        return lambda pair: (calls.append((name, pair)), (float(pair), 1.0))[1]

    samples = alternate({"a": run("a"), "b": run("b")}, 2)  # type: ignore[dict-item]
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert samples == {"a": [(0.0, 1.0), (1.0, 1.0)], "b": [(0.0, 1.0), (1.0, 1.0)]}


def test_ratios_are_of_pairs_not_of_medians() -> None:
    # The machine halved its speed in the second pair: each pair still says 2.
    assert pair_ratio([100, 50, 90], [50, 25, 30], higher_is_better=True) == Ratio(2, 2, 3)
    assert pair_ratio([1, 2, 4], [2, 2, 2], higher_is_better=False) == Ratio(1, 0.5, 2)
    with pytest.raises(ValueError, match="shorter"):
        pair_ratio([1, 2], [1], higher_is_better=True)


def test_reached_is_a_fraction_of_the_limit_either_way() -> None:
    speed = Result("decode", "tokens/s", {"landrace": [70, 80, 90]}, Limit(100, "bytes"))
    seconds = Result("load", "s", {"landrace": [4, 5, 6], "llama.cpp": [10, 10, 10]}, Limit(1, "bytes"))
    assert (speed.median("landrace"), speed.reached) == (80, 0.8)
    assert (seconds.reached, seconds.ratio("llama.cpp").median) == (0.2, 2)
    assert Result("beyond", "MB", {"landrace": [1.0]}).reached is None


def test_rows_follow_the_options() -> None:
    names = [row.name for row in rows_of(BenchOptions(threads=2))]
    assert [name for name in names if "prefill" in name] == ["prefill 128", "prefill 512", "prefill 2048"]
    assert len([name for name in names if "decode" in name]) == 8
    assert "decode 64 streams, context 2048" in names
    assert rows_of(BenchOptions(threads=2, only=("load",))) == [LoadRow()]
    quick = rows_of(BenchOptions(threads=2, pairs=1, quick=True))
    assert len(quick) < len(names)


@pytest.mark.parametrize(
    "wrong",
    [{"pairs": 4}, {"pairs": 0, "quick": True}, {"threads": 0}, {"only": ("decoding",)}, {"only": ()}],
    ids=str,
)
def test_options_that_cannot_be_honoured(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        BenchOptions(**{"threads": 2, **wrong})  # type: ignore[arg-type]


def test_sequences_stay_within_the_model() -> None:
    assert fits_length(PrefillRow(512), 513)
    assert not fits_length(PrefillRow(512), 512)
    assert fits_length(DecodeRow(4, 128), 200)
    assert not fits_length(DecodeRow(4, 128), 150)
    assert fits_length(LoadRow(), 16)


def test_prompts_are_repeatable_and_differ_from_the_first_token_on() -> None:
    assert random_prompt(1000, 50, "row", 1) == random_prompt(1000, 50, "row", 1)
    prompts = [random_prompt(49152, 16, "row", pair) for pair in range(20)]
    assert len({tuple(prompt) for prompt in prompts}) == 20
    assert all(len(prompt) == 16 and 0 <= min(prompt) <= max(prompt) < 49152 for prompt in prompts)


def test_peers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="no peer") as unknown:
        check_peers(["ollama"])
    assert "llama.cpp" in (unknown.value.hint or "")
    monkeypatch.setattr("landrace.bench.peers.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="not installed") as missing:
        check_peers(["llama.cpp"])
    assert "pip install llama-cpp-python" in (missing.value.hint or "")
    monkeypatch.setattr("landrace.bench.peers.util.find_spec", lambda name: object())
    assert check_peers(["transformers", "llama.cpp", "transformers"]) == ("transformers", "llama.cpp")


def test_a_busy_machine_is_told() -> None:
    assert busy_warnings(0.01, 30.0, 31.0) == []
    assert busy_warnings(None, 30.0, 29.0) == []
    assert "40%" in busy_warnings(0.4, 30.0, 30.0)[0]
    assert "20.0 GB/s after" in busy_warnings(0.0, 30.0, 20.0)[0]


def test_what_the_system_tells() -> None:
    share = OthersWatch().share()
    assert share is None or share >= 0
    free = available_memory()
    assert free is None or free > 0
