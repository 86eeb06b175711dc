"""The tables as statements are written on them. What they are is in `schema.py`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, MetaData, Table, Text

_METADATA = MetaData()


def _table(name: str, key: Column[object], texts: str, integers: str = "", reals: str = "") -> Table:
    return Table(
        name,
        _METADATA,
        key,
        *(Column(column, Text()) for column in texts.split()),
        *(Column(column, BigInteger()) for column in integers.split()),
        *(Column(column, Double()) for column in reals.split()),
    )


def _number() -> Column[object]:
    return Column("id", BigInteger(), primary_key=True)


RUNS = _table(
    "runs",
    _number(),
    "kind name status started ended command config package_version git_commit machine",
)
SCORES = _table(
    "scores",
    _number(),
    "model adapter task metric details package_version git_commit machine weights_sha256 adapter_sha256 data_sha256 "
    "template_sha256 created",
    "run_id n seed",
    "value low high",
)
USAGE = _table(
    "usage",
    _number(),
    "request_id response_id model adapter key_id team kind finish_reason created",
    "run_id prompt_tokens cached_prompt_tokens completion_tokens thought_tokens cost",
    "queue_seconds first_token_seconds total_seconds machine_seconds",
)
KEYS = _table(
    "keys",
    Column("id", Text(), primary_key=True),
    "name team secret_sha256 models routes created expires revoked",
    "is_admin priority requests_per_minute tokens_per_minute money_per_month",
)
EXCHANGES = _table(
    "exchanges",
    _number(),
    "response_id conversation model messages tools answer finish_reason key_id team created",
    "choice",
)
FEEDBACK = _table(
    "feedback",
    _number(),
    "response_id rating correction comment key_id team created",
    "choice",
)
