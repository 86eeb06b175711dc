"""The table of docs/checkpoints.md: how every quantised form is held, what it is read against, and that it is damaged.

    python tests/checkpoints/test_quantised_table.py

writes it anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from quantised_forms import FORMS as WRITTEN
from test_quantised import DAMAGED, KEPT

from landrace.checkpoints.quantised import FORMS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
HEAD = "| `quant_method` | files in tests | packed as | unpacked | held against | damaged |"
LIBRARIES: dict[str, dict[str, str]] = {
    "compressed-tensors": {"compressed-tensors": "compressed_tensors"},
    "mxfp4": {"transformers": "transformers"},
    "gptq": {"gptqmodel": "gptqmodel", "auto-round": "auto_round_extension.torch.qlinear_torch"},
    "awq": {"autoawq": "awq", "gptqmodel": "gptqmodel", "auto-round": "auto_round.export.export_to_awq.utils"},
    "auto-round": {"auto-round": "auto_round_extension.torch.qlinear_torch"},
    "hqq": {"hqq": "hqq.core.quantize"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes.functional"},
}
"""What test_quantised_libraries.py has files written or read by, with the modules that it asks for."""
OTHER_NAMES = {"intel/auto-round": "auto-round"}
"""Methods with two names."""
GPT_OSS = "gpt-oss"


def table() -> str:
    lines = [HEAD, "| --- | --- | --- | --- | --- | --- |"]
    methods = {form: settings["quant_method"] for form, (settings, _) in WRITTEN.items()} | {GPT_OSS: "mxfp4"}
    kept = KEPT | {GPT_OSS: "MXFP4"}
    for method in (method for method in FORMS if method not in OTHER_NAMES):
        forms = [form for form, own in methods.items() if own == method]
        packed = ", ".join(sorted({kept[form] for form in forms if form in kept})) or "nothing"
        unpacked = "; ".join(form for form in forms if form not in kept) or "nothing"
        against = ", ".join(["formulas", *LIBRARIES.get(method, ())])
        damaged = sum(form in DAMAGED for form in forms)
        cells = [f"`{method}`", str(len(forms)), packed, unpacked, against, f"{damaged} of {len(forms)}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text(), f"Write it anew: python {Path(__file__).name}"


def test_every_form_is_damaged() -> None:
    assert (*WRITTEN, GPT_OSS) == DAMAGED


def test_the_libraries_are_those_of_the_tests() -> None:
    text = Path(__file__).with_name("test_quantised_libraries.py").read_text()
    for modules in LIBRARIES.values():
        for module in modules.values():
            assert f'importorskip("{module}")' in text or f'find_spec("{module}")' in text


if __name__ == "__main__":
    before, _, after = PAGE.read_text().partition(HEAD)
    PAGE.write_text(before + table() + "\n\n" + after.partition("\n\n")[2])
