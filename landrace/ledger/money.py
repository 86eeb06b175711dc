"""Money as the ledger keeps it: whole billionths of the operator's currency, so that sums are exact."""

from __future__ import annotations

from decimal import Decimal

from landrace.errors import DataError

_PLACES = 9
_SECONDS_PER_HOUR = 3600


def cost_of(machine_seconds: float, price_per_hour: Decimal | float) -> Decimal:
    """The price of a share of the machine's time, to the billionth."""
    price = Decimal(str(price_per_hour)) * Decimal(str(machine_seconds)) / _SECONDS_PER_HOUR
    return billionths_as_money(money_as_billionths(price))


def money_as_billionths(money: Decimal | float) -> int:
    """Raises DataError for what is negative or no number."""
    amount = Decimal(str(money))
    if not amount.is_finite() or amount < 0:
        raise DataError(f"An amount of money is {money}; it must be a number from 0 upwards.")
    return int(amount.scaleb(_PLACES).to_integral_value())


def billionths_as_money(count: int) -> Decimal:
    return Decimal(count).scaleb(-_PLACES)
