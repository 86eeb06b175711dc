"""The report page: well-formed, self-contained, and deaf to hostile text."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from landrace.evaluation.compare import compare
from landrace.evaluation.figures import Bar, bar_chart, loss_curve, standalone
from landrace.evaluation.report import render_report, write_report
from landrace.evaluation.statistics import wilson_interval

EXPECTED = ["refund", "check_in"] * 20
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&</svg></style>{{ 7*7 }}"
VOID = {"meta", "br", "img", "line", "rect", "polyline"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def says(self, text: str) -> bool:
        return text in "".join(self.text)


def systems(evaluation_of: Any, extra: str = "") -> list[Any]:
    base = evaluation_of(f"base{extra}", ["refund"] * 30 + [None] * 10, EXPECTED)
    tuned = evaluation_of(f"tuned{extra}", [*EXPECTED[:36], "refund", "refund", "refund", None], EXPECTED)
    classical = evaluation_of(f"TF-IDF{extra}", EXPECTED[::-1], EXPECTED, method="classical", wall_seconds=0.01)
    return [base, tuned, classical]


def test_the_page_has_every_section_and_needs_nothing_else(evaluation_of: Any, tmp_path: Path) -> None:
    items = systems(evaluation_of)
    path = tmp_path / "runs" / "demo" / "report.html"
    losses = [(step, 2 / step) for step in range(1, 60)]
    write_report(path, compare(items), items, title="Demo", losses=losses, provenance={"commit": "abc123"})
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    sections = ("By language", "By expected answer", "What tuned confuses", "Examples", "Training loss")
    for text in (*sections, "Demo", "abc123"):
        assert page.says(text), text
    assert page.says("tuned is right on")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "img", "object", "form"}
    attributes = {name for _, values in page.tags for name in values}
    assert not attributes & {"src", "href", "action", "srcset", "background"}
    assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in html
    assert "@import" not in html
    assert html.isascii() or '<meta charset="utf-8">' in html


def test_hostile_text_stays_text(evaluation_of: Any) -> None:
    from dataclasses import replace

    items = [
        replace(
            item,
            task=HOSTILE,
            data_source=HOSTILE,
            provenance={HOSTILE: HOSTILE},
            rows=tuple(
                replace(
                    row,
                    id=f"{HOSTILE}{index}",
                    inputs={"text": HOSTILE},
                    groups={HOSTILE: HOSTILE},
                    expected=row.expected + HOSTILE,
                    answer=HOSTILE,
                    parsed=row.parsed and row.parsed + HOSTILE,
                    error=HOSTILE if index == 38 else None,
                )
                for index, row in enumerate(item.rows)
            ),
        )
        for item in systems(evaluation_of, extra=HOSTILE)
    ]
    html = render_report(compare(items), items, title=HOSTILE, losses=[(1, 1.0)], provenance={HOSTILE: HOSTILE})
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img"}
    assert not any(name.startswith("on") for _, values in page.tags for name in values)
    assert page.says(HOSTILE)
    assert html.count("<style>") == html.count("</style>") == 1


def test_examples_are_the_rows_where_two_systems_differ(evaluation_of: Any) -> None:
    base = evaluation_of("base", ["refund", None], ["refund", "check_in"])
    tuned = evaluation_of("tuned", ["refund", "check_in"], ["refund", "check_in"])
    page = Page(render_report(compare([base, tuned]), [base, tuned]))
    assert page.says("ticket 1")
    assert not page.says("ticket 0")
    assert page.says("None.")


def test_one_system_alone_and_no_mistakes(evaluation_of: Any) -> None:
    only = evaluation_of("only", EXPECTED, EXPECTED)
    page = Page(render_report(compare([only]), [only]))
    assert page.says("No mistakes")
    assert not page.says("Examples")
    assert not page.says("Training loss")


def test_many_labels_give_the_worst_confusions_instead_of_a_matrix(evaluation_of: Any) -> None:
    expected = [f"intent_{index}" for index in range(30)]
    item = evaluation_of("m", ["intent_0"] * 30, expected)
    html = render_report(compare([item]), [item])
    assert 'class="matrix"' not in html
    assert Page(html).says("Most frequent mistakes")


def test_a_task_without_labels_has_no_confusions(evaluation_of: Any) -> None:
    item = evaluation_of("m", ["4", "5"], ["4", "4"], kind="exact")
    page = Page(render_report(compare([item]), [item]))
    assert not page.says("confuses")


def test_bars_are_as_long_as_their_values() -> None:
    svg = bar_chart([Bar("a", 0.25, wilson_interval(25, 100), "leaf"), Bar("b <", 1.0, wilson_interval(9, 9), "grain")])
    root = ElementTree.fromstring(svg)
    assert [rect.get("width") for rect in root.findall("rect")] == ["25.00%", "100.00%"]
    whiskers = [float((line.get("x1") or "").rstrip("%")) for line in root.findall("line[@class='whisker']")][:1]
    assert whiskers == [pytest.approx(100 * wilson_interval(25, 100).low, abs=0.01)]
    assert "b <: 100.0%" in (root.findtext("title") or "")


def test_a_loss_curve_spans_its_values_and_says_what_it_cannot_draw() -> None:
    root = ElementTree.fromstring(loss_curve([(10, 3.0), (20, 2.0), (30, math.nan), (40, 1.0)]))
    line = root.find("svg/polyline")
    assert line is not None
    assert line.get("points") == "0.00,0.00 33.33,50.00 100.00,100.00"
    assert "1 values not finite" in "".join(root.itertext())
    assert loss_curve([]) == loss_curve([(1, math.inf)]) == ""
    assert ElementTree.fromstring(loss_curve([(1, 2.0)])) is not None
    assert loss_curve([(step, 1.0 / step) for step in range(1, 100)]).count("<polyline") == 2


def test_a_plot_can_be_a_file_of_its_own() -> None:
    picture = standalone(loss_curve([(1, 2.0), (2, 1.0)]))
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert re.search(r"--leaf:#[0-9a-f]{6}", picture)
