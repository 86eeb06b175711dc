"""`/metrics`: what Prometheus reads, after calls of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def counted(start_server: Callable[..., Any], tiny_model: Path, tiny_adapter: Path, tmp_path_factory: Any) -> Any:
    ledger = tmp_path_factory.mktemp("ledger") / "book.sqlite"
    return start_server(
        str(tiny_model),
        "--adapter",
        f"tuned={tiny_adapter}",
        "--price-per-hour",
        "3600",
        "--keys",
        "none",
        ledger=ledger,
    )


def read(server: Any) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}


def test_what_is_served_is_counted(counted: Any, tiny_model: Path) -> None:
    base = str(tiny_model)
    before = read(counted)
    assert before["landrace_engine_up", base] == 1
    asked = [{"role": "user", "content": "Hello"}]
    chat: dict[str, Any] = {"messages": asked, "max_tokens": 5, "extra_body": {"ignore_eos": True}}
    for model, stream in ((base, False), (base, True), ("tuned", False)):
        answer = counted.client.chat.completions.create(model=model, stream=stream, **chat)
        if stream:
            list(answer)
    counted.post("/v1/chat/completions", {"model": base})
    counted.get("/v1/nonsense/that/does/not/exist")
    now = read(counted)
    assert now["landrace_answers_total", base, "chat", "length"] == 2
    assert now["landrace_answers_total", "chat", "length", "tuned"] == 1
    assert now["landrace_generation_tokens_total", base] == 10
    assert now["landrace_prompt_tokens_total", base] > 10
    assert now["landrace_time_to_first_token_seconds_count", base] == 2
    assert now["landrace_time_per_output_token_seconds_count", base] == 2
    assert now["landrace_cost_total", base] == pytest.approx(now["landrace_machine_seconds_total", base], rel=1e-6)
    chats = "/v1/chat/completions"
    assert now["landrace_http_requests_total", chats, "200", "POST"] == 3
    assert now["landrace_http_requests_total", chats, "400", "POST"] == 1
    assert now["landrace_http_requests_total", "404", "none", "none"] == 1
    assert now["landrace_requests_running", base] == now["landrace_requests_waiting", base] == 0
    assert now["landrace_cache_tokens", *sorted(("0:all", "held", base))] == 0
    assert now["landrace_engine_restarts_total", base] == now["landrace_ledger_degraded",] == 0
    assert now["process_resident_memory_bytes",] > 0


def test_the_dashboard_asks_for_numbers_that_there_are(counted: Any) -> None:
    names = {name for name, *_ in read(counted)}
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:landrace|process)_\w+", target["expr"])
    }
    assert asked and asked <= names
