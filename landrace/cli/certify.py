"""`certify`: the parity certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from landrace.cli.console import err, out, print_json, spinner


def certify(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    adapter: Annotated[Path | None, typer.Argument(help="A LoRA adapter folder in peft's format.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show that trainer, engine and transformers agree on this model, token by token.

    Exit code 2 when a path differs by more than its bound.
    """
    from landrace.certify import certify as make_certificate

    with spinner("certifying"):
        certificate = make_certificate(model, adapter)
    if json:
        print_json(certificate.as_dict())
    else:
        table = Table(box=None, pad_edge=False)
        table.add_column(f"against {certificate.reference}")
        for column in ("tokens", "largest difference", "mean", "equal argmax", ""):
            table.add_column(column, justify="right")
        for path in certificate.paths:
            table.add_row(
                path.name,
                str(path.tokens),
                f"{path.largest:.2e} (≤ {path.bound.largest:g})",
                f"{path.mean:.2e} (≤ {path.bound.mean:g})",
                f"{path.equal_argmax:.2%} (≥ {path.bound.equal_argmax:.1%})",
                "[green]pass[/]" if path.passed else "[red]FAIL[/]",
            )
        out.print(table)
        for reason in certificate.skipped:
            out.print(f"[dim]not taken: {reason}[/]")
        template = certificate.template_sha256 or "none"
        out.print(f"[dim]weights {certificate.weights_sha256[:16]}  template {template[:16]}[/]")
        verdict = "[green]The paths agree.[/]" if certificate.passed else "[red]The paths do not agree.[/]"
        err.print(verdict)
    if not certificate.passed:
        raise typer.Exit(2)
