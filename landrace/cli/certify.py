"""`certify`: the parity certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from landrace.cli.console import err, out, print_json, spinner

if TYPE_CHECKING:
    from landrace.certify import PromptResult


def certify(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    adapter: Annotated[Path | None, typer.Argument(help="A LoRA adapter folder in peft's format.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show that trainer, engine and transformers agree on this model, token by token.

    Exit code 2 when a path differs by more than its bound, or a prompt has other ids than in transformers.
    """
    from landrace.certify import BOUNDS
    from landrace.certify import certify as make_certificate

    with spinner("certifying"):
        certificate = make_certificate(model, adapter)
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
        if certificate.prompts is not None:
            for line in _prompt_lines(certificate.prompts):
                out.print(line)
        for reason in certificate.skipped:
            out.print(f"[dim]not taken: {reason}[/]")
        template = certificate.template_sha256 or "none"
        out.print(f"[dim]weights {certificate.weights_sha256[:16]}  template {template[:16]}[/]")
        verdict = "[green]The paths agree.[/]" if certificate.passed else "[red]The paths do not agree.[/]"
        err.print(verdict)
    if not certificate.passed:
        raise typer.Exit(2)


def _prompt_lines(prompts: PromptResult) -> list[str]:
    verdict = "[green]pass[/]" if prompts.passed else "[red]FAIL[/]"
    equal = len(prompts.compared) - len(prompts.different)
    lines = [
        f"prompts: {equal} of {len(prompts.compared)} kinds of conversation have the ids of transformers  {verdict}"
    ]
    lines += [f"[red]  other ids: {escape(name)}[/]" for name in prompts.different]
    return lines + [f"[dim]  not written by the template: {escape(reason)}[/]" for reason in prompts.refused]
