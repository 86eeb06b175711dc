"""How much a model is to think, in the words of the command line: on, off, or a number of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from landrace.errors import RequestError

if TYPE_CHECKING:
    from landrace.text import Tokenizer


def budget(think: str) -> int | None:
    """The number in `think`, if it is one."""
    if think in ("on", "off"):
        return None
    if not think.isdecimal() or len(think) > 9:
        raise RequestError(
            f"How much to think is on, off or a number of tokens, not {think[:40]!r}.", field="thinking_budget"
        )
    return int(think)


def with_thinking(tokenizer: Tokenizer, variables: Mapping[str, Any], think: str) -> dict[str, Any]:
    """The variables of the model's template that say so, beside the others. RequestError where it has no such switch,
    or for a number where it shows no thoughts."""
    from landrace.text.thinking_switches import switched

    template = tokenizer.chat_template
    if think not in ("on", "off") and tokenizer.answer_grammar.thought is None:
        raise RequestError("This model's template shows no thoughts that could be limited.", field="thinking_budget")
    if template is None:
        return dict(variables)
    switch: dict[str, Any] = {}
    if think in ("on", "off"):
        switch = own = switched(template, think == "on")
    else:
        own = {}
        with suppress(RequestError):
            own = switched(template, on=True)
    return {**{name: value for name, value in variables.items() if name not in own}, **switch}


def with_effort(tokenizer: Tokenizer, variables: Mapping[str, Any], effort: str) -> dict[str, Any]:
    """The variables of the model's template for this effort, beside the others. RequestError where it knows none."""
    from landrace.text import thinking_switches

    template = tokenizer.chat_template
    if template is None:
        return dict(variables)
    return {**variables, **thinking_switches.with_effort(template, effort, variables)}
