"""Whether calls need a key."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from landrace.errors import OptionError
from landrace.ledger.keys import Key
from landrace.ledger.records import utc_now


def keys_needed(mode: str, address: str, keys: Callable[[], Iterable[Key]] | None) -> bool:
    """Whether a server that listens on `address`, in digits, asks for keys. `keys` are those of its ledger; None: it
    has no ledger.

    In the mode "auto" it does unless it listens on loopback only and has no keys: a proxy of the same machine may open
    it to others. "required" asks always, "none" never. Raises OptionError for another mode, and where keys are asked
    for and nobody could have one.
    """
    if mode not in ("auto", "required", "none"):
        raise OptionError(f"--keys is auto, required or none, not {mode!r}.")
    if mode == "none":
        return False
    loopback = ipaddress.ip_address(address).is_loopback
    now = utc_now()
    any_valid = keys is not None and any(key.is_valid(now) for key in keys())
    if mode == "auto" and loopback:
        return any_valid
    if not any_valid:
        raise OptionError(
            f"Calls to {address} need a key, and there is none"
            f"{' in the ledger' if keys is not None else ': the server has no ledger'}.",
            hint="Make one with landrace keys create --ledger FILE, and pass the same --ledger; "
            "or let everybody in who reaches the server, with --keys none.",
        )
    return True
