"""`Lark`: a grammar in llguidance's dialect of Lark, put together rule by rule for one vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from landrace.text.answers.readable_schema import readable_schema
from landrace.text.guides import JSON_FORMAT, Guide
from landrace.text.guides.schema import checked_schema

if TYPE_CHECKING:
    from landrace.text.tokenizer import Tokenizer

ANY = "/(?s:.*)/"
"""A terminal of any text."""
SPACE = r"/[ \n]{1,8}/?"
"""White space beside marks."""
NOTHING = '""'


class Lark:
    """What its methods return are expressions of the language, to be written one behind another.

    Names of rules are small letters, those of terminals capitals. Equal rules are written once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = {text: index for index in tokenizer.control_ids if (text := tokenizer.token_text(index))}
        self._ends = tokenizer.eos_ids
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def guide(self, start: str) -> Guide:
        """The grammar whose texts are those of the expression `start`."""
        rules = [f"start: {start}", *(f"{name}: {body}" for name, body in self._rules.items())]
        return Guide.of_lark("\n".join(rules) + "\n")

    @staticmethod
    def text(text: str) -> str:
        """A text that is no mark: control tokens that it spells out are text."""
        return json.dumps(text, ensure_ascii=False) if text else NOTHING

    def mark(self, mark: str) -> str:
        """A mark: its control tokens as tokens, the rest of it as text."""
        pieces, at = [], 0
        for found in self._control.finditer(mark):
            pieces += [self.text(mark[at : found.start()])] if mark[at : found.start()] else []
            pieces.append(f"<[{self._ids[found[0]]}]>")
            at = found.end()
        return " ".join([*pieces, *([self.text(mark[at:])] if mark[at:] else [])])

    def begins_with_token(self, mark: str) -> bool:
        """Whether a mark begins with a control token, so that no text can be taken for its beginning."""
        return self._control.match(mark) is not None

    def ends_answer(self, mark: str) -> bool:
        """Whether a mark is a token that ends an answer."""
        return self._ids.get(mark) in self._ends

    def json(self, schema: Mapping[str, Any], mark: str = "") -> str:
        """JSON that is valid under a schema, without texts in which `mark` begins."""
        narrowed = readable_schema(schema, mark)
        return self.rule(f"%json {json.dumps({**narrowed, 'x-guidance': JSON_FORMAT}, ensure_ascii=False)}")

    def rule(self, body: str, *, option: str = "") -> str:
        """A rule of its own for an expression."""
        return self._named(body, "r", option)

    def terminal(self, expression: str) -> str:
        """A terminal: text that is read as one piece. `expression`: of strings, patterns and terminals."""
        return self._named(expression, "T", "")

    def reserve(self) -> str:
        """The name of a rule whose body is set later, for rules that lead back to themselves."""
        name = f"r{len(self._rules)}"
        self._rules[name] = NOTHING
        return name

    def define(self, name: str, body: str) -> None:
        """The body of a reserved rule."""
        self._rules[name] = body

    def until(self, text: str, mark: str) -> str:
        """A terminal's text and then `mark`, of which `text` holds nothing; as little as can be."""
        found = self._control.search(mark)
        if found is None:
            return self.rule(self.terminal(f"({text}) {self.text(mark)}"), option="[lazy]")
        head, tokens = mark[: found.start()], mark[found.start() :]
        return f"{self.terminal(f'({text}) {self.text(head)}' if head else text)} {self.mark(tokens)}"

    def of_guide(self, guide: Guide) -> str:
        """What a guide holds an answer to; not for `lark`, whose rules have names of their own."""
        match guide.kind:
            case "json_schema":
                return self.json(checked_schema(guide.source))
            case "json_object":
                return self.json({"type": "object"})
            case "choice":
                return self.rule(either([self.text(one) for one in json.loads(guide.source)]))
            case _:
                return self.terminal(pattern(guide.source))

    def _named(self, body: str, prefix: str, option: str) -> str:
        key = body + option
        if key not in self._names:
            name = f"{prefix}{len(self._rules)}"
            self._names[key] = name
            self._rules[name + option] = body
        return self._names[key]


def either(expressions: Sequence[str]) -> str:
    """One of several expressions."""
    return f"({' | '.join(dict.fromkeys(expressions))})"


def pattern(source: str) -> str:
    """A regular expression, of a whole text, as a terminal's pattern."""
    escaped = re.sub(r"\\.|/", lambda found: "\\/" if found[0] == "/" else found[0], source, flags=re.DOTALL)
    return f"/{escaped}/".replace("\n", "\\n")


def without(text: str, marks: Sequence[str]) -> str:
    """The terminal `text`, but nothing that holds one of `marks`."""
    held = "|".join(re.escape(mark) for mark in marks)
    return f"({text} & ~{pattern(f'(?s:.*)({held})(?s:.*)')})" if marks else text
