"""`certify`: the parity certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from landrace.cli.console import err, out, print_json, spinner
from landrace.cli.options import MaxLengthOption


def certify(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    adapter: Annotated[Path | None, typer.Argument(help="A LoRA adapter folder in peft's format.")] = None,
    max_length: MaxLengthOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show that trainer, engine and transformers agree on this model, token by token.

    Exit code 2 when a path differs by more than its bound.
    """
    from landrace.certify import BOUNDS
    from landrace.certify import certify as make_certificate

    with spinner("certifying"):
        certificate = make_certificate(model, adapter, max_length=max_length)
    if json:
        print_json(certificate.as_dict())
    else:
        table = Table(box=None, pad_edge=False)
        table.add_column(f"against {certificate.reference}", no_wrap=True)
        for column in ("tokens", "largest", "mean", "equal argmax", ""):
            table.add_column(column, justify="right", no_wrap=True)
        for path in certificate.paths:
            verdict = "[green]pass[/]" if path.passed else "[red]FAIL[/]"
            table.add_row(
                path.name,
                str(path.tokens),
                f"{path.largest:.1e}",
                f"{path.mean:.1e}",
                f"{path.equal_argmax:.2%}",
                verdict,
            )
        out.print(table)
        out.print("[dim]Differences are of natural-log probabilities. Bounds:[/]")
        for kind, bound in BOUNDS.items():
            limits = f"largest {bound.largest:g}, mean {bound.mean:g}, equal argmax {bound.equal_argmax:.1%}"
            out.print(f"[dim]  {kind}: {limits}[/]")
        for reason in certificate.skipped:
            out.print(f"[dim]not taken: {reason}[/]")
        template = certificate.template_sha256 or "none"
        out.print(f"[dim]opened for sequences of up to {certificate.max_length} tokens[/]")
        out.print(f"[dim]weights {certificate.weights_sha256[:16]}  template {template[:16]}[/]")
        verdict = "[green]The paths agree.[/]" if certificate.passed else "[red]The paths do not agree.[/]"
        err.print(verdict)
    if not certificate.passed:
        raise typer.Exit(2)
