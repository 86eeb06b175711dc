"""Whether two mathematical answers are the same: as numbers, expressions, equations, sets, intervals, tuples, matrices.

Expressions are compared by value, with 60 digits at fixed points for their symbols: two analytic expressions that agree
there agree everywhere, but for a chance of measure zero (Schwartz 1980, "Fast probabilistic algorithms for verification
of polynomial identities", JACM 27). So nothing has to be simplified, every comparison ends at once, and a rounded
decimal never equals an irrational number. Values too large to write are equal to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

from landrace.evaluation.latex import Node

DIGITS = 60
TOLERANCE = 1e-45
MAX_EXPONENT = 20_000
MAX_ITEMS = 60
_POINTS = ((0.731, 0.0), (1.387, 0.0), (2.913, 0.0), (-0.577, 0.0), (-1.831, 0.0), (0.413, 0.871), (-0.927, 0.359))
_MIN_POINTS = 3


class _UndefinedError(ArithmeticError):
    """No finite value at this point, or one too large to compute."""


def same(answer: Node, expected: Node) -> bool:
    """Whether an answer equals the expected one.

    `x = 3` is 3; a percentage is a share, or the number of per cent where more than 1 is expected; a unit counts only
    where both name one; order counts in tuples, not in sets.
    """
    answer, expected = _solution(answer), _solution(expected)
    if answer.kind == "unit" or expected.kind == "unit":
        units = {item.value for item in (answer, expected) if item.kind == "unit"}
        bare = [item.parts[0] if item.kind == "unit" else item for item in (answer, expected)]
        if "°" in units and len(units | {"°"}) == 1 and _angle(bare[1] if expected.kind != "unit" else bare[0]):
            return False
        return len(units) == 1 and same(*bare)
    if answer.kind == "percent" and expected.kind != "percent":
        value = _value(expected, {})
        if value is not None and abs(value) > 1 and same(answer.parts[0], expected):
            return True
    sets = _as_set(answer), _as_set(expected)
    if "set" in (answer.kind, expected.kind) or "plusminus" in (answer.kind, expected.kind):
        return None not in sets and _same_items(sets[0] or (), sets[1] or ())
    if {answer.kind, expected.kind} & {"interval", "union"} or (
        "relation" in (answer.kind, expected.kind) and "tuple" in (answer.kind, expected.kind)
    ):
        intervals = _as_intervals(answer), _as_intervals(expected)
        return None not in intervals and _same_items(intervals[0] or (), intervals[1] or ())
    if answer.kind == expected.kind == "relation":
        return _same_relation(answer, expected)
    if {answer.kind, expected.kind} <= {"tuple", "list"}:
        if "tuple" in (answer.kind, expected.kind):
            return _all_same(answer.parts, expected.parts)
        return _same_items(answer.parts, expected.parts)
    if answer.kind == expected.kind and answer.kind in ("matrix", "row"):
        return _all_same(answer.parts, expected.parts)
    if answer.kind in ("text", "empty") or expected.kind in ("text", "empty"):
        return answer == expected
    return _same_value(answer, expected)


def _solution(node: Node) -> Node:
    """`x = 3` as 3, `x \\in S` as S, `2 + 2 = 4` as 4; a list of such as a list of values."""
    if node.kind == "relation" and node.value == "=" and not _symbols(node):
        plain = [part for part in node.parts if part.kind == "number"]
        return plain[0] if len(plain) == 1 else node.parts[1]
    if node.kind == "relation" and node.value in ("=", "in") and node.parts[0].kind == "symbol":
        right = node.parts[1]
        return right if node.value == "in" or not _symbols(right) else node
    if node.kind == "list":
        return Node("list", tuple(map(_solution, node.parts)))
    return node


def _angle(node: Node) -> bool:
    """Whether the value is a multiple of pi written as one: radians."""
    return node.kind != "number" and "pi" in {item.value for item in _leaves(node)}


def _as_set(node: Node) -> tuple[Node, ...] | None:
    if node.kind == "plusminus":
        left, right = node.parts
        return (Node("sum", (left, right)), Node("sum", (left, Node("negative", (right,)))))
    if node.kind in ("set", "list"):
        parts: list[Node] = []
        for item in node.parts:
            parts += (_as_set(item) or ()) if item.kind == "plusminus" else [item]
        return tuple(parts)
    if node.kind == "empty":
        return ()
    return None if node.kind in ("interval", "union", "tuple", "matrix", "relation") else (node,)


def _as_intervals(node: Node) -> tuple[Node, ...] | None:
    """Intervals of a set of reals; `x > 2` and (2, 5) count as such."""
    if node.kind == "interval":
        return (node,)
    if node.kind == "tuple" and len(node.parts) == 2:
        return (Node("interval", node.parts, "()"),)
    if node.kind == "union" or node.kind == "list":
        parts = [_as_intervals(item) for item in node.parts]
        return None if None in parts else tuple(item for part in parts for item in part or ())
    if node.kind == "relation" and node.value in ("<", "<=", ">", ">="):
        return _ray(node)
    return None


def _ray(node: Node) -> tuple[Node, ...] | None:
    left, right = node.parts
    operator = str(node.value)
    if left.kind != "symbol":
        left, right, operator = right, left, operator.translate(str.maketrans("<>", "><"))
    if left.kind != "symbol" or _symbols(right):
        return None
    infinity = Node("constant", (), "inf")
    closed = "=" in operator
    if operator[0] == ">":
        return (Node("interval", (right, infinity), f"{'[' if closed else '('})"),)
    return (Node("interval", (Node("negative", (infinity,)), right), f"({']' if closed else ')'}"),)


def _same_items(first: Sequence[Node], second: Sequence[Node]) -> bool:
    """Equal as sets: each item of one has its equal in the other."""
    if len(first) > MAX_ITEMS or len(second) > MAX_ITEMS:
        return False
    return all(any(_same_item(a, b) for b in second) for a in first) and all(
        any(_same_item(a, b) for a in first) for b in second
    )


def _same_item(answer: Node, expected: Node) -> bool:
    if answer.kind == expected.kind == "interval":
        return answer.value == expected.value and _all_same(answer.parts, expected.parts)
    return same(answer, expected)


def _all_same(first: Sequence[Node], second: Sequence[Node]) -> bool:
    return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))


def _same_relation(answer: Node, expected: Node) -> bool:
    """Equal up to moving terms and a factor: its sign matters where the sides do."""
    turned = {">": "<", ">=": "<="}
    sides = []
    for node in (answer, expected):
        left, right = node.parts if node.value not in turned else node.parts[::-1]
        sides.append((turned.get(str(node.value), str(node.value)), Node("sum", (left, Node("negative", (right,))))))
    (operator, first), (other, second) = sides
    if operator != other or operator == "in":
        return operator == other and all(same(a, b) for a, b in zip(answer.parts, expected.parts, strict=True))
    ratios = []
    for point in _assignments(_symbols(first) | _symbols(second)):
        above, below = _value(first, point), _value(second, point)
        if above is not None and below is not None and below != 0:
            ratios.append(above / below)
    if len(ratios) < _MIN_POINTS or not all(_close(ratio, ratios[0]) for ratio in ratios) or ratios[0] == 0:
        return False
    return operator in ("=", "!=") or _context().re(ratios[0]) > 0


def _same_value(answer: Node, expected: Node) -> bool:
    names = _symbols(answer) | _symbols(expected)
    if not names:
        first, second = _value(answer, {}), _value(expected, {})
        return first is not None and second is not None and _close(first, second)
    compared = 0
    for point in _assignments(names):
        first, second = _value(answer, point), _value(expected, point)
        if first is None or second is None:
            continue
        if not _close(first, second):
            return False
        compared += 1
    return compared >= _MIN_POINTS


def _close(first: Any, second: Any) -> bool:
    if _context().isinf(first) or _context().isinf(second):
        return bool(first == second)
    return bool(abs(first - second) <= TOLERANCE * max(1, abs(first), abs(second)))


def _assignments(names: frozenset[str]) -> list[dict[str, Any]]:
    """A value for each symbol, several times over: real ones of both signs, and complex ones."""
    context = _context()
    ordered = sorted(names)
    return [
        {
            name: context.mpc(real, imaginary) * (1 + context.mpf(place) / 7) if imaginary
            else context.mpf(real) * (1 + context.mpf(place) / 7)
            for place, name in enumerate(ordered)
        }
        for real, imaginary in _POINTS
    ]  # fmt: skip


def _leaves(node: Node) -> list[Node]:
    return [node] if not node.parts else [leaf for part in node.parts for leaf in _leaves(part)]


def _symbols(node: Node) -> frozenset[str]:
    return frozenset(str(leaf.value) for leaf in _leaves(node) if leaf.kind == "symbol")


def _value(node: Node, point: Mapping[str, Any]) -> Any:
    """The value at a point, None where there is none."""
    try:
        value = _evaluated(node, point)
    except (ArithmeticError, ValueError, TypeError, KeyError):
        return None
    return None if _context().isnan(value) else value


def _evaluated(node: Node, point: Mapping[str, Any]) -> Any:
    context = _context()
    if node.kind == "number":
        value = Fraction(node.value)
        return context.mpf(value.numerator) / value.denominator
    if node.kind == "symbol":
        return point[str(node.value)]
    if node.kind == "constant":
        return {"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1), "inf": context.inf}[str(node.value)]
    values = [_evaluated(part, point) for part in node.parts]
    if node.kind == "function":
        return _FUNCTIONS[str(node.value)](context, *values)
    return _OPERATIONS[node.kind](context, *values)


def _power(context: Any, base: Any, exponent: Any) -> Any:
    if base != 0 and abs(exponent) * max(1, abs(context.log(abs(base)))) > MAX_EXPONENT:
        raise _UndefinedError
    return context.power(base, exponent)


def _whole(value: Any, limit: int) -> int:
    if value != int(value) or not 0 <= value <= limit:
        raise _UndefinedError
    return int(value)


def _binomial(context: Any, above: Any, below: Any) -> Any:
    return context.binomial(_whole(above, 1000), _whole(below, 1000))


def _log(context: Any, value: Any, base: Any = None) -> Any:
    return context.log(value) / context.log(10 if base is None else base)


def _folded(function: Callable[[int, int], int]) -> Callable[..., Any]:
    def apply(context: Any, *values: Any) -> Any:
        result = _whole(values[0], 10**15)
        for value in values[1:]:
            result = function(result, _whole(value, 10**15))
        return context.mpf(result)

    return apply


def _gcd(first: int, second: int) -> int:
    while second:
        first, second = second, first % second
    return first


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "sum": lambda context, a, b: a + b,
    "product": lambda context, a, b: a * b,
    "quotient": lambda context, a, b: a / b,
    "negative": lambda context, a: -a,
    "power": _power,
    "root": lambda context, a, degree: context.root(a, _whole(degree, 100)),
    "factorial": lambda context, a: context.factorial(_whole(a, 2000)),
    "binomial": _binomial,
    "percent": lambda context, a: a / 100,
    "unit": lambda context, a: a,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        name: (lambda context, a, name=name: getattr(context, name)(a))
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "sqrt")
    },
    **{f"arc{name}": (lambda context, a, name=name: getattr(context, f"a{name}")(a)) for name in ("sin", "cos", "tan")},
    "exp": lambda context, a: _power(context, +context.e, a),
    "abs": lambda context, a: abs(a),
    "ln": lambda context, a: context.log(a),
    "log": _log,
    "lg": _log,
    "min": lambda context, *values: min(values),
    "max": lambda context, *values: max(values),
    "gcd": _folded(_gcd),
    "lcm": _folded(lambda a, b: a * b // _gcd(a, b)),
}


@cache
def _context() -> Any:
    """Arithmetic of our own precision, apart from mpmath's global one. Heavy to import, so only when asked for."""
    import mpmath

    context = mpmath.MPContext()
    context.dps = DIGITS
    return context
