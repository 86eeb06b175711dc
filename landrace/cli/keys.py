"""`keys`: who may call a server, kept in its ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from landrace.cli.console import err, out, print_json, print_table, styled
from landrace.cli.ledgers import LedgerOption, existing_ledger, opened_ledger
from landrace.cli.moments import moment_of
from landrace.errors import DataError, OptionError
from landrace.ledger import Key, utc_now

if TYPE_CHECKING:
    from landrace.ledger import Ledger

app = typer.Typer(help="Create, list, rotate and revoke the keys of a server.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
KeyArgument = Annotated[str, typer.Argument(help="Its name or its id.", metavar="KEY")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What you call it: a person, a program, a machine.")],
    ledger: LedgerOption,
    team: Annotated[str, typer.Option(help="Whose usage it counts to.")] = "",
    models: Annotated[str | None, typer.Option(help="Models and adapters it may ask for: a,b; default: all.")] = None,
    routes: Annotated[str | None, typer.Option(help="Routes it may call: a,b; default: all.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may administer the server.")] = False,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most calls a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Most tokens a minute.")] = None,
    money_per_month: Annotated[
        str | None, typer.Option(help="Most it may cost in a month, in the currency of --price-per-hour.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Calls of a higher one are served first.")] = 0,
    expires: Annotated[str | None, typer.Option(help="When it ends: 90d, 12h or a day such as 2026-12-31.")] = None,
    json: Json = False,
) -> None:
    """Make a key and print its secret, which is never shown again."""
    with opened_ledger(ledger) as book:
        key, secret = book.create_key(
            name,
            team=team,
            models=_names("--models", models),
            routes=_names("--routes", routes),
            is_admin=admin,
            priority=priority,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            money_per_month=_money(money_per_month),
            expires=_ending(expires),
        )
    _tell_secret(key, secret, "is made", json)


@app.command("list")
def list_keys(
    ledger: LedgerOption,
    every: Annotated[bool, typer.Option("--all", help="Revoked and expired ones too.")] = False,
    json: Json = False,
) -> None:
    """List the keys, without their secrets."""
    now = utc_now()
    with existing_ledger(ledger) as book:
        stored = book.keys()
    keys = [key for key in stored if every or key.is_valid(now)]
    if json:
        print_json([_facts(key) for key in keys])
        return
    if not keys:
        err.print("There are no keys. Make one with: landrace keys create NAME")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "id", "team", "may use", "limits", "priority", "ends"):
        table.add_column(column, no_wrap=column == "id")
    for key in keys:
        table.add_row(key.name, key.id, key.team, _scope(key), _limits(key), str(key.priority), _end(key, now))
    print_table(table)


@app.command("rotate")
def rotate(key: KeyArgument, ledger: LedgerOption, json: Json = False) -> None:
    """Give a key a new secret, printed once; the old one ends at once."""
    with existing_ledger(ledger) as book:
        changed, secret = book.rotate_key(_found(book, key))
    _tell_secret(changed, secret, "has a new secret", json)


@app.command("revoke")
def revoke(key: KeyArgument, ledger: LedgerOption, json: Json = False) -> None:
    """End a key for good. What it used stays on record."""
    with existing_ledger(ledger) as book:
        ended = book.revoke_key(_found(book, key))
    if json:
        print_json(_facts(ended))
        return
    err.print(styled("Revoked ", (ended.name, "bold"), f" ({ended.id})."))


def _found(book: Ledger, text: str) -> str:
    stored = book.keys()
    for key in stored:
        if key.revoked is None and text in (key.id, key.name):
            return key.id
    raise DataError(f"There is no key {text!r}.", hint="See them with: landrace keys list")


def _tell_secret(key: Key, secret: str, what: str, json: bool) -> None:
    if json:
        print_json({**_facts(key), "secret": secret})
        return
    err.print(styled((key.name, "bold"), f" ({key.id}) {what}. Keep it safe: it is not shown again."))
    out.print(secret, soft_wrap=True)


def _facts(key: Key) -> dict[str, Any]:
    facts = asdict(key)
    for name, value in facts.items():
        if isinstance(value, datetime):
            facts[name] = value.isoformat()
        elif isinstance(value, Decimal):
            facts[name] = float(value)
    return facts


def _scope(key: Key) -> str:
    parts = [*(key.models or ["all models"] * (key.models is None)), *(key.routes or [])]
    return ", ".join([*parts, *(["admin"] if key.is_admin else [])])


def _limits(key: Key) -> str:
    limits = (
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (None if key.money_per_month is None else f"{key.money_per_month.normalize():f}", "a month"),
    )
    return ", ".join(f"{value} {unit}" for value, unit in limits if value is not None)


def _end(key: Key, now: datetime) -> str:
    if key.revoked is not None:
        return f"revoked {key.revoked:%Y-%m-%d}"
    if key.expires is None:
        return "never"
    return f"{'' if key.is_valid(now) else 'expired '}{key.expires:%Y-%m-%d %H:%M} UTC"


def _names(option: str, text: str | None) -> Sequence[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise OptionError(f"{option} wants names with commas between them, not {text!r}.")
    return names


def _money(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        money = Decimal(text)
    except InvalidOperation as error:
        raise OptionError(f"--money-per-month wants a number such as 12.50, not {text!r}.") from error
    if not math.isfinite(money) or money < 0:
        raise OptionError(f"--money-per-month is {text}; it must be 0 or more.")
    return money


def _ending(text: str | None) -> datetime | None:
    if text is None:
        return None
    ending = moment_of("--expires", text, span="ahead", end_of_day=True)
    if ending <= utc_now():
        raise OptionError(f"--expires is {text}, which is past.")
    return ending
