"""`certify`: the parity certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from landrace.cli.console import err, out, print_json, print_table, styled
from landrace.cli.options import MaxLengthOption
from landrace.cli.progress import spinner

if TYPE_CHECKING:
    from landrace.certify import PromptResult


def certify(
    model: Annotated[str, typer.Argument(help="A stored model, a folder or a .gguf file.")],
    adapter: Annotated[Path | None, typer.Argument(help="A LoRA adapter folder in peft's format.")] = None,
    max_length: MaxLengthOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Show that trainer, engine and transformers agree on this model, token by token.

    Exit code 2 when a path differs by more than its bound, or a prompt has other ids than in transformers.
    """
    with spinner("certifying"):
        from landrace.certify import BOUNDS
        from landrace.certify import certify as make_certificate

        certificate = make_certificate(model, adapter, max_length=max_length)
    if json:
        print_json(certificate.as_dict())
    else:
        table = Table(box=None, pad_edge=False)
        table.add_column(f"against {certificate.reference}")
        chosen = [
            kind
            for kind in ("experts", "positions")
            if any(getattr(path.equal_choices, kind) is not None for path in certificate.paths)
        ]
        for column in (
            "tokens",
            "largest",
            "mean",
            "equal argmax",
            "near ties",
            *(f"equal {kind}" for kind in chosen),
            "",
        ):
            # In a narrow window names and headings are broken, and no figure is cut short.
            table.add_column(column, justify="right", min_width=len("100.00%"))
        for path in certificate.paths:
            verdict = styled(("pass", "green") if path.passed else ("FAIL", "red"))
            of_choices = (getattr(path.equal_choices, kind) for kind in chosen)
            table.add_row(
                path.name,
                str(path.tokens),
                f"{path.largest:.1e}",
                f"{path.mean:.1e}",
                f"{path.equal_argmax:.2%}",
                f"{path.near_ties:.2%}" if path.near_ties else "",
                *("" if share is None else f"{share:.2%}" for share in of_choices),
                verdict,
            )
        print_table(table)
        out.print("Differences are of natural-log probabilities. Bounds:", style="dim")
        equal = "equal " + " and ".join(["argmax (near ties too)", *chosen])
        for kind, bound in BOUNDS.items():
            limits = f"largest {bound.largest:g}, mean {bound.mean:g}, {equal} {bound.equal_argmax:.1%}"
            out.print(f"  {kind}: {limits}", style="dim")
        if certificate.prompts is not None:
            _print_prompts(certificate.prompts)
        for reason in certificate.skipped:
            out.print(f"not taken: {reason}", style="dim")
        template = certificate.template_sha256 or "none"
        out.print(f"opened for sequences of up to {certificate.max_length} tokens", style="dim")
        out.print(f"weights {certificate.weights_sha256[:16]}  template {template[:16]}", style="dim")
        if certificate.passed:
            err.print("The paths agree.", style="green")
        else:
            err.print("The paths do not agree.", style="red")
    if not certificate.passed:
        raise typer.Exit(2)


def _print_prompts(prompts: PromptResult) -> None:
    equal = len(prompts.compared) - len(prompts.different)
    verdict = ("pass", "green") if prompts.passed else ("FAIL", "red")
    told = f"prompts: {equal} of {len(prompts.compared)} kinds of conversation have the ids of transformers  "
    out.print(styled(told, verdict))
    for name in prompts.different:
        out.print(f"  other ids: {name}", style="red")
    for reason in prompts.refused:
        out.print(f"  not written by the template: {reason}", style="dim")
