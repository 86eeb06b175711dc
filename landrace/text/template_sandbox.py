"""The jinja environment for chat templates, which are programs from strangers.

Beside jinja's own sandbox (no attribute tricks, no changing of values) it bounds work and size: loop rounds and calls
are counted for each rendering, and the operations that can make much out of little (repeating, joining, padding,
replacing, writing nested lists) are refused past a limit. What breaks a bound ends in jinja2's SecurityError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 2_000_000
MAX_SIZE = 32_000_000
_STEPS_PER_CALL = 10
_MAX_NUMBER = 100_000
_MAX_EXPONENT = 64
_MAX_NESTED_ITEMS = 1_000_000
# A template cannot name this variable, because it is not an identifier.
_STEPS_KEY = "steps left!"
_WRITING_FILTERS = frozenset({"string", "join", "pprint", "tojson", "format", "upper", "lower", "trim"})
_WIDE_FIELD = re.compile(r"\{[^{}]*\d{5,}")
_WIDE_PERCENT = re.compile(r"%[^A-Za-z%]*(?:\d{5,}|\*)")


class TemplateRefusalError(TemplateRuntimeError):
    """The template called raise_exception: it does not accept these messages."""


class StepCounter:
    """How many loop rounds and calls one rendering may still make."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise SecurityError(f"it makes more than {MAX_STEPS:,} steps")


def render_context(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables of one rendering with a fresh step counter."""
    return {**variables, _STEPS_KEY: StepCounter()}


def _spend(context: Context, steps: int = 1) -> None:
    counter = context.get(_STEPS_KEY)
    if isinstance(counter, StepCounter):
        counter.spend(steps)


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(context)
        yield item


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise SecurityError(f"it makes a value of more than {MAX_SIZE:,} characters or items")


def _check_result(value: Any) -> Any:
    if isinstance(value, (str, list, tuple)):
        _check_size(len(value))
    return value


def _check_nesting(value: Any) -> Any:
    """Refuses a value that is small in memory because it holds the same list many times, and huge when written."""
    waiting, seen = [value], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple, dict)):
            seen += 1 + len(item)
            if seen > _MAX_NESTED_ITEMS:
                raise SecurityError(f"it writes a value of more than {_MAX_NESTED_ITEMS:,} nested items")
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return value


def _check_arguments(owner: Any, name: str, args: tuple[Any, ...]) -> None:
    """Refuses the calls whose result can be far larger than their arguments: padding, formatting, replacing."""
    if any(isinstance(arg, int) and abs(arg) > _MAX_NUMBER for arg in args):
        raise SecurityError("it calls a function with a huge number")
    if not isinstance(owner, str):
        return
    longest = max((len(arg) for arg in args if isinstance(arg, (str, list, tuple))), default=0)
    if name == "replace" and args and isinstance(args[0], str):
        _check_size(len(owner) + owner.count(args[0]) * longest)
    elif name == "join":
        _check_size(len(owner) * longest)
    elif name in ("format", "format_map"):
        if _WIDE_FIELD.search(owner) or _WIDE_PERCENT.search(owner):
            raise SecurityError("it pads to a huge width")
        _check_size(len(owner) + (owner.count("{") + owner.count("%")) * longest)
    elif name in ("expandtabs", "translate"):
        raise SecurityError(f"it calls {name}")


class _BoundedCode(CodeGenerator):
    """Python code for a template in which each loop counts its rounds and each `~` checks its size."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802 (jinja's name)
        for loop in node.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted!", [], [], None, None, lineno=loop.lineno)
        super().visit_Template(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 (jinja's name)
        self.write("environment.bounded_concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's part for trainers; its body is rendered where it stands."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates expect it (the settings and helpers of `transformers`), within bounds."""

    code_generator_class = _BoundedCode
    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, now: Callable[[str], str]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlock, loopcontrols],
            finalize=_check_nesting,
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: _bounded_filter(name, inner) for name, inner in self.filters.items()}
        self.filters["counted!"] = _counted
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = now

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        _spend(__context, _STEPS_PER_CALL)
        # Jinja wraps str.format; the method itself tells whose it is.
        method = getattr(__obj, "__wrapped__", __obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        _check_arguments(owner, name, (*args, *kwargs.values()))
        return _check_result(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sized = [len(value) for value in (left, right) if isinstance(value, (str, list, tuple))]
        numbers = [value for value in (left, right) if isinstance(value, int)]
        if operator == "*" and sized and numbers:
            _check_size(sized[0] * numbers[0])
        elif operator == "+":
            _check_size(sum(sized))
        elif operator == "%" and isinstance(left, str) and _WIDE_PERCENT.search(left):
            raise SecurityError("it pads to a huge width")
        elif operator == "**" and any(abs(number) > _MAX_EXPONENT for number in numbers):
            raise SecurityError("it raises to a huge power")
        return super().call_binop(context, operator, left, right)

    def bounded_concat(self, parts: tuple[Any, ...]) -> str:
        texts = [str(_check_nesting(part)) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)


def _bounded_filter(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    """`inner` with its arguments and result checked; the markers by which jinja passes a context are kept."""
    marker = getattr(inner, "jinja_pass_arg", None)
    skipped = 0 if marker is None else 1

    def bounded(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[skipped:]
        _check_arguments(value, name, (*rest, *kwargs.values()))
        if name in _WRITING_FILTERS:
            _check_nesting(value)
        if name == "join" and isinstance(value, (list, tuple)):
            separator = len(str(rest[0])) if rest else 0
            _check_size(sum((len(item) if isinstance(item, str) else 0) + separator for item in value))
        return _check_result(inner(*args, **kwargs))

    if marker is not None:
        bounded.jinja_pass_arg = marker  # type: ignore[attr-defined]
    return bounded


def _refuse(message: str) -> None:
    raise TemplateRefusalError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
