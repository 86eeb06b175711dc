"""The report as a table: the same cells for a terminal and for plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from landrace.bench.peers import OURS
from landrace.bench.report import BenchReport, Result

_GAP = "  "


def headline(report: BenchReport) -> list[str]:
    """What was measured, on what, and how far to trust it; before the table."""
    kind = "A first look" if report.quick else "Medians"
    plural = "" if report.pairs == 1 else "s"
    lines = [
        f"{report.model}, {report.options['threads']} threads, weights {report.options['weights']}, "
        f"{report.model_facts['kernels']} kernels",
        f"{report.limits['processor']}, {limits_line(report.limits)}",
        f"{kind} of {report.pairs} alternating pair{plural}. Ratios: above 1 ours is better (lowest and highest pair).",
    ]
    return lines + [f"warning: {warning}" for warning in report.warnings]


def limits_line(limits: Mapping[str, Any]) -> str:
    """The machine's measured limits in one line."""
    int8 = limits["int8_gop_s"]
    return (
        f"{limits['instruction_set']}: reads {limits['read_gb_s']:.1f} GB/s, "
        f"int8 {'not there' if int8 is None else f'{int8:.0f} GOP/s'}, "
        f"bf16 {limits['bf16_gflop_s']:.0f} GFLOP/s, fp32 {limits['fp32_gflop_s']:.0f} GFLOP/s"
    )


def columns(report: BenchReport) -> list[str]:
    """The table's head."""
    return ["", "unit", OURS, "limit", "of limit", *(word for peer in _peers(report) for word in (peer, "ratio"))]


def cells(report: BenchReport) -> list[list[str]]:
    """The table's lines, one for each result."""
    return [_line(result, _peers(report)) for result in report.results]


def footer(report: BenchReport) -> list[str]:
    """What follows from several lines, and what was left out; after the table."""
    lines = []
    found = {result.name.rpartition(", ")[2]: result for result in report.results}
    if "cold" in found and "prefix cached" in found:
        share = found["prefix cached"].median(OURS) / found["cold"].median(OURS)
        lines.append(f"First token with the prefix cached: {share:.1%} of cold.")
    return lines + [f"left out: {item.what}: {item.reason}" for item in report.left_out]


def plain_table(report: BenchReport) -> str:
    """The table in columns of spaces, for files and pipes: names to the left, figures to the right."""
    lines = [columns(report), *cells(report)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return _GAP.join([first, *rest]).rstrip()


def _peers(report: BenchReport) -> list[str]:
    return list(dict.fromkeys(peer for result in report.results for peer in result.peers))


def _line(result: Result, peers: Sequence[str]) -> list[str]:
    reached = result.reached
    line = [
        result.name,
        result.unit,
        _number(result.median(OURS)),
        "" if result.limit is None else _number(result.limit.value),
        "" if reached is None else f"{reached:.0%}",
    ]
    for peer in peers:
        if peer in result.samples:
            ratio = result.ratio(peer)
            line += [_number(result.median(peer)), f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"]
        else:
            line += ["", ""]
    return line


def _number(value: float) -> str:
    """Three digits or more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
