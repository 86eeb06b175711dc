r"""Mathematical answers, in LaTeX or plain, as trees: `\frac{1}{2}`, `x = 3`, `[0, 1)`, `\{1, 2\}`, matrices.

A recursive-descent parser with bounded length and depth. What it does not know is a `ParseError`, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from landrace.evaluation.latex_tokens import CONSTANTS, FUNCTIONS, ParseError, prepared, tokens

MAX_LENGTH = 2000
MAX_DEPTH = 40

_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "\\le": "<=",
    "\\leq": "<=",
    "\\leqslant": "<=",
    "\\ge": ">=",
    "\\geq": ">=",
    "\\geqslant": ">=",
    "\\lt": "<",
    "\\gt": ">",
    "\\ne": "!=",
    "\\neq": "!=",
    "\\in": "in",
    "\\equiv": "=",
}
_TIMES = frozenset(["*", "\\cdot", "\\times", "\\ast"])
_DIVIDE = frozenset(["/", "\\div"])
_SIGNS = frozenset(["+", "-", "\\pm", "\\mp"])
_BETWEEN = frozenset(_RELATIONS) | _SIGNS | _TIMES | _DIVIDE | {"\\cup", "\\cap", "\\setminus", "\\circ"}
_OPENING = {"(": ")", "[": "]", "\\{": "\\}"}
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?: [^\W\d_]+){0,2}")
_EMPTY = frozenset(
    ["no solution", "no solutions", "none", "empty set", "no real solution", "no real solutions", "keine lösung"]
)


@dataclass(frozen=True)
class Node:
    """A tree: `kind` with `parts`; leaves have a `value`. Kinds are listed at `maths.same`."""

    kind: str
    parts: tuple[Node, ...] = ()
    value: str | Fraction = ""


def parse(text: str, language: str = "en") -> Node:
    """The tree of one mathematical answer. Raises ParseError for anything else."""
    if len(text) > MAX_LENGTH:
        raise ParseError("too long")
    if _WORDS.fullmatch(text.strip()) and not set(text.split()) & (FUNCTIONS | set(CONSTANTS)):
        return _words_node(text.strip())
    found = tokens(prepared(text, language))
    if not found:
        raise ParseError("empty")
    parser = _Parser(found)
    node = parser.answer()
    parser.expect_end()
    return node


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def answer(self) -> Node:
        """A list of statements, or one."""
        items = [self._statement()]
        while self._takes(",", ";") or self._takes_joining_word():
            items.append(self._statement())
        return items[0] if len(items) == 1 else Node("list", tuple(items))

    def expect_end(self) -> None:
        if self._at < len(self._tokens):
            raise ParseError(f"unexpected {self._value()}")

    def _statement(self) -> Node:
        left = self._union()
        chain: list[tuple[str, Node]] = []
        while self._value() in _RELATIONS:
            operator = _RELATIONS[self._next()]
            chain.append((operator, self._union()))
        if not chain:
            return left
        if len(chain) == 1:
            return Node("relation", (left, chain[0][1]), chain[0][0])
        if len(chain) == 2 and all(item[0] in ("<", "<=") for item in chain):
            return _interval(left, chain[1][1], chain[0][0] == "<", chain[1][0] == "<")
        if all(item[0] == "=" for item in chain):
            return Node("relation", (left, chain[-1][1]), "=")
        raise ParseError("a chain of relations")

    def _union(self) -> Node:
        parts = [self._sum()]
        while self._value() in ("\\cup", "\\setminus", "\\cap"):
            if self._next() != "\\cup":
                raise ParseError("only unions of sets are known")
            parts.append(self._sum())
        return parts[0] if len(parts) == 1 else Node("union", tuple(parts))

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ParseError("nested too deeply")
        left = self._product() if self._value() not in _SIGNS else self._signed(Node("number", (), Fraction(0)))
        while self._value() in _SIGNS:
            left = self._signed(left)
        self._depth -= 1
        return left

    def _signed(self, left: Node) -> Node:
        sign = self._next()
        zero = left == Node("number", (), Fraction(0))
        right = self._product()
        if sign in ("\\pm", "\\mp"):
            return Node("plusminus", (left, right))
        if sign == "+":
            return right if zero else Node("sum", (left, right))
        negative = Node("negative", (right,))
        return negative if zero else Node("sum", (left, negative))

    def _product(self) -> Node:
        left = self._factor()
        while True:
            if self._value() in _TIMES:
                self._next()
                left = Node("product", (left, self._factor()))
            elif self._value() in _DIVIDE:
                self._next()
                left = Node("quotient", (left, self._factor()))
            elif self._is_unit():
                left = Node("unit", (left,), self._unit())
            elif self._starts_factor():
                if self._peek()[0] in ("number", "repeating") and left.kind == "number":
                    raise ParseError("two numbers side by side")
                is_fraction = self._value() == "\\frac"
                left = _beside(left, self._power(), is_fraction)
            else:
                return left

    def _factor(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ParseError("nested too deeply")
        try:
            if self._takes("-"):
                return Node("negative", (self._factor(),))
            if self._takes("+"):
                return self._factor()
            return self._power()
        finally:
            self._depth -= 1

    def _power(self) -> Node:
        base = self._postfix(self._atom())
        if self._takes("^"):
            if self._takes("\\circ"):
                return Node("unit", (base,), "°")
            return self._postfix(Node("power", (base, self._argument())))
        return base

    def _postfix(self, node: Node) -> Node:
        while self._value() in ("!", "%", "\\%", "_", "'"):
            sign = self._next()
            if sign == "!":
                node = Node("factorial", (node,))
            elif sign == "_":
                node = Node("symbol", (), f"{_leaf(node)}_{_leaf(self._argument())}")
            elif sign == "'":
                raise ParseError("a prime")
            else:
                node = Node("percent", (node,))
        return node

    def _argument(self) -> Node:
        """What `^`, `_` or a command takes: a group in braces, or one thing (one digit of a number)."""
        kind, value = self._peek()
        if value == "{":
            return self._group()
        if kind == "number" and len(value) > 1 and value.isdigit():
            self._tokens[self._at] = ("number", value[1:])
            return Node("number", (), Fraction(value[0]))
        if value == "-":
            return self._factor()
        return self._atom()

    def _group(self) -> Node:
        self._expect("{")
        node = self._union()
        self._expect("}")
        return node

    def _atom(self) -> Node:
        kind, value = self._peek()
        if not kind:
            raise ParseError("it ends too early")
        if value in _OPENING:
            return self._bracketed()
        if value == "{":
            return self._group()
        if value == "|":
            self._next()
            node = self._union()
            self._expect("|")
            return Node("function", (node,), "abs")
        self._next()
        if kind == "number":
            return Node("number", (), Fraction(value))
        if kind == "repeating":
            return Node("number", (), _repeating(value))
        if kind == "letter":
            return Node("constant", (), value) if value in ("e", "i") else Node("symbol", (), value)
        if kind == "constant":
            return Node("constant", (), CONSTANTS[value])
        if kind == "function":
            return self._function(value)
        if kind == "text":
            return _words_node(_inner(value))
        if kind == "blackboard":
            return Node("symbol", (), value.strip("{}")[-1] + " set")
        if kind == "begin":
            return self._matrix(value)
        return self._command(value)

    def _command(self, value: str) -> Node:
        name = value[1:]
        if name in CONSTANTS:
            return Node("constant", (), CONSTANTS[name])
        if name == "frac":
            return Node("quotient", (self._argument(), self._argument()))
        if name in ("binom", "dbinom", "tbinom"):
            return Node("binomial", (self._argument(), self._argument()))
        if name in ("emptyset", "varnothing"):
            return Node("empty")
        if name in ("lvert", "vert", "lfloor", "lceil", "sum", "int", "prod", "lim", "end", "circ", "sqrt"):
            raise ParseError(f"{value} is not known here")
        if value.startswith("\\") and name.isalpha() and value not in _RELATIONS:
            return Node("symbol", (), name)
        raise ParseError(f"unexpected {value}")

    def _function(self, name: str) -> Node:
        if name == "sqrt":
            degree = None
            if self._takes("["):
                degree = self._sum()
                self._expect("]")
            inside = self._argument()
            return Node("function", (inside,), "sqrt") if degree is None else Node("root", (inside, degree))
        power = base = None
        while self._value() in ("^", "_"):
            if self._next() == "^":
                power = self._argument()
            else:
                base = self._argument()
        if self._value() in ("(", "[", "{"):
            inside = self._bracketed() if self._value() != "{" else self._group()
        else:
            inside = self._power()
            while self._starts_factor() and self._peek()[0] != "function" and self._value() not in _OPENING:
                inside = Node("product", (inside, self._power()))
        parts = inside.parts if inside.kind == "tuple" else (inside,)
        inverse = power == Node("negative", (Node("number", (), Fraction(1)),)) and name in ("sin", "cos", "tan")
        node = Node("function", (*parts, *([] if base is None else [base])), f"arc{name}" if inverse else name)
        return node if power is None or inverse else Node("power", (node, power))

    def _bracketed(self) -> Node:
        opening = self._next()
        if self._takes(_OPENING[opening]):
            if opening == "\\{":
                return Node("empty")
            raise ParseError("empty brackets")
        items = [self._statement()]
        while self._takes(",", ";"):
            items.append(self._statement())
        closing = self._next()
        if opening == "\\{" and closing == "\\}":
            return Node("set", tuple(items))
        if closing not in (")", "]") or opening == "\\{":
            raise ParseError("brackets that do not match")
        if len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")):
            return items[0]
        if len(items) == 2 and (opening, closing) != ("(", ")"):
            return _interval(items[0], items[1], opening == "(", closing == ")")
        if opening == "(" and closing == ")":
            return Node("tuple", tuple(items))
        raise ParseError("brackets that do not match")

    def _matrix(self, begin: str) -> Node:
        name = begin[begin.index("{") + 1 : begin.index("}")]
        if name not in ("matrix", "pmatrix", "bmatrix", "array", "smallmatrix", "Bmatrix"):
            raise ParseError(f"{name} is not known")
        rows: list[list[Node]] = [[]]
        while self._peek()[0] != "end":
            rows[-1].append(self._statement())
            if self._takes("\\\\"):
                if self._peek()[0] != "end":
                    rows.append([])
            elif not self._takes("&") and self._peek()[0] != "end":
                raise ParseError("a matrix")
        self._next()
        return Node("matrix", tuple(Node("row", tuple(row)) for row in rows))

    def _is_unit(self) -> bool:
        kind, value = self._peek()
        return kind == "text" and _inner(value) not in ("or", "and") and _inner(value).lower() not in _EMPTY

    def _unit(self) -> str:
        parts = []
        while self._is_unit():
            parts.append(_inner(self._next()))
            if self._takes("^"):
                parts.append(f"^{_leaf(self._argument())}")
        return "".join(parts).replace(" ", "")

    def _starts_factor(self) -> bool:
        kind, value = self._peek()
        if kind in ("number", "repeating", "letter", "constant", "function", "begin"):
            return True
        if kind == "command":
            return value == "\\{" or (value[1:].isalpha() and value not in _BETWEEN)
        return value in ("(", "{")

    def _takes_joining_word(self) -> bool:
        kind, value = self._peek()
        if kind == "text" and _inner(value).lower() in ("or", "and", "und", "oder", "et", "ou", "y", "o", "и", "или"):
            self._at += 1
            return True
        return False

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _value(self) -> str:
        return self._peek()[1]

    def _next(self) -> str:
        value = self._value()
        self._at += 1
        return value

    def _takes(self, *values: str) -> bool:
        if self._value() in values and self._at < len(self._tokens):
            self._at += 1
            return True
        return False

    def _expect(self, value: str) -> None:
        if not self._takes(value):
            raise ParseError(f"{value} is missing")


def _beside(left: Node, right: Node, is_fraction: bool) -> Node:
    """Two things side by side: `1\\frac{1}{2}` is a mixed number, `2x` a product."""
    whole = left.kind == "number" and isinstance(left.value, Fraction) and left.value.denominator == 1
    if whole and is_fraction and right.kind == "quotient" and all(part.kind == "number" for part in right.parts):
        return Node("sum", (left, right))
    return Node("product", (left, right))


def _interval(low: Node, high: Node, low_open: bool, high_open: bool) -> Node:
    return Node("interval", (low, high), f"{'(' if low_open else '['}{')' if high_open else ']'}")


def _inner(command: str) -> str:
    return command[command.index("{") + 1 : -1].strip()


def _words_node(text: str) -> Node:
    if text.lower() in _EMPTY:
        return Node("empty")
    if re.fullmatch(r"[-+]?\d+(?:\.\d+)?", text):
        return Node("number", (), Fraction(text))
    return Node("text", (), " ".join(text.casefold().split()))


def _repeating(text: str) -> Fraction:
    whole, _, rest = text.partition(".")
    match = re.fullmatch(r"(\d*)(?:\\overline|\\bar|\\dot)?\s*[{(]?(\d+)[})]?", rest)
    if not match or len(rest) > 100:
        raise ParseError("a repeating decimal")
    fixed, period = match[1], match[2]
    value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
    return value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


def _leaf(node: Node) -> str:
    if node.parts or node.value == "":
        raise ParseError("a name with something else than a name below")
    return str(node.value)
