"""`Caller`: who a call comes from."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from landrace.server.http.errors import ApiError

_PLACE = "landrace.caller"


@dataclass(frozen=True)
class Caller:
    """Whose key came with a call. Without keys every call comes from `ANYONE`."""

    key_id: str | None = None
    """The key's number in the ledger, which is no secret; None where no key is asked for."""
    name: str = ""
    """What the operator calls the key."""
    team: str = ""
    models: frozenset[str] | None = None
    """The models and adapters that it may ask for; None: all."""
    is_admin: bool = True
    priority: int = 0
    """As `Request.priority`."""

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def check_model(self, name: str) -> None:
        """Raises ApiError (403) for a model that the key may not ask for, whether there is one of that name or not."""
        if not self.may_use(name):
            theirs = ", ".join(sorted(self.models or ())) or "none"
            message = f"This key may not use the model {name!r}. It may use: {theirs}."
            raise ApiError(403, message, param="model", code="model_not_allowed")


ANYONE = Caller()


def caller_of(http: HTTPConnection) -> Caller:
    """The caller that the access middleware found, or `ANYONE` where there is none."""
    found = http.scope.get(_PLACE, ANYONE)
    assert isinstance(found, Caller)
    return found


def note_caller(http: HTTPConnection, caller: Caller) -> None:
    """For the access middleware: the routes behind it see `caller`."""
    http.scope[_PLACE] = caller
