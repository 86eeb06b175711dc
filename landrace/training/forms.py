"""The forms that training rows come in, told by their columns.

| form | columns |
| --- | --- |
| chat | `messages` (OpenAI), or `conversations` with `from` and `value` (ShareGPT) |
| completion | `prompt` and `completion`: two texts, or two lists of messages |
| alpaca | `instruction`, `input`, `output`, `history` |
| text | `text` |

A column that is known to change what is learned is honoured or refused; any other is left alone and remarked on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from landrace.data import kind
from landrace.errors import DataError
from landrace.training.rows import ChatRow, CompletionRow, ExcludedRow, Row, TextRow
from landrace.training.turns import Message, Turns, read_switch, read_text, read_tools, read_turns

FORMS = (
    'A row is {"messages": [{"role": ..., "content": ...}, ...]},'
    ' {"conversations": [{"from": ..., "value": ...}, ...]}, {"prompt": "...", "completion": "..."},'
    ' {"instruction": "...", "input": "...", "output": "..."}'
    ' or {"text": "..."}.'
)
CHAT = ("messages", "conversations", "conversation")
COMPLETION = ("prompt", "completion")
ALPACA = ("instruction", "output")
TEXT = ("text",)

_SWITCHES = ("weight", "train")
_CONTEXT = ("system", "tools", "functions", "history", "input", "context", "documents")
"""Columns that stand before the answer where a form has them; beside another form they would be dropped."""
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_PREFERENCE = ("chosen", "rejected", "preferred_output", "non_preferred_output")
"""Columns that begin so: `rejected_response` is one too."""
_VERDICT = ("label", "kto_tag")
_RANKING = ("responses", "completions", "ranks", "rank", "scores", "score", "rewards", "reward", "ranking")
_UNSUPPORTED = (
    *("labels", "mask", "loss", "loss_mask", "loss_scale", "loss_weight", "weights", "sample_weight"),
    *("train_on_input", "train_on_inputs", "train_on_prompt", "mask_history", "chat_template_kwargs"),
)
_MEANT = {
    **dict.fromkeys(("content", "document", "body"), "text"),
    **dict.fromkeys(("question", "query", "problem"), "prompt"),
    **dict.fromkeys(("answer", "response", "reply", "solution"), "completion"),
    **dict.fromkeys(("dialog", "dialogue", "chat", "turns"), "messages"),
    "response_chosen": "chosen",
    "response_rejected": "rejected",
}
"""Names that files give to columns that are known here under another."""


class _Columns:
    """The columns of one row. What nobody took is said in the end."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = values
        self._left = dict.fromkeys(values)

    def has(self, name: str) -> bool:
        """Whether the column is there, and not null."""
        return self._values.get(name) is not None

    def take(self, name: str) -> Any:
        """The value, which counts as used; None if it is absent, null or an empty text."""
        self._left.pop(name, None)
        value = self._values.get(name)
        return None if value == "" else value

    def text(self, name: str) -> str:
        """A text that must be there."""
        self._left.pop(name, None)
        try:
            return read_text(self._values.get(name), f"'{name}'", self.where)
        except DataError as error:
            if self._values.get(name) is None:
                raise DataError(error.message, hint=self.map_hint(name)) from error
            raise

    def map_hint(self, name: str) -> str:
        """How to read another column as `name`."""
        return f"If another column holds it, pass --map COLUMN={name}; there are {', '.join(map(str, self._values))}."

    def remarks(self) -> tuple[str, ...]:
        """What is left, and means nothing here."""
        return tuple(f"the column '{name}' is not used" for name in self._left if self._values[name] is not None)

    def refuse_context(self, form: str) -> None:
        """DataError if a column is left that would stand before the answer."""
        for name in _CONTEXT:
            if name in self._left and self._values[name]:
                raise DataError(
                    f"{self.where}: the column '{name}' does not go with {form}.",
                    hint=f"Write it into the row's text, or set it aside with --map {name}=unused.",
                )


def training_row(values: Mapping[str, Any], where: str) -> Row:
    """The row that the columns make. DataError, beginning with `where`, for a row that cannot be learned from."""
    _refuse_other_methods(values, where)
    columns = _Columns(values, where)
    read = _form(columns, values)
    switches = [read_switch(columns.take(name), f"'{name}'", where) for name in _SWITCHES]
    if switches.count(True) and switches.count(False):
        raise DataError(f"{where}: 'weight' and 'train' contradict each other.")
    row = read(columns)
    if False in switches:
        return ExcludedRow(where, "its weight is 0", row.remarks)
    return row


def _form(columns: _Columns, values: Mapping[str, Any]) -> Callable[[_Columns], Row]:
    forms = {_chat: CHAT, _completion: COMPLETION, _alpaca: ALPACA, _text: TEXT}
    found = {read: [name for name in names if columns.has(name)] for read, names in forms.items()}
    if not any(found.values()):
        # Columns that are null everywhere: the form they belong to says what is missing.
        found = {read: [name for name in names if name in values] for read, names in forms.items()}
    reads = [read for read, names in found.items() if names]
    if len(reads) > 1:
        first, second = (found[read][0] for read in reads[:2])
        raise DataError(
            f"{columns.where}: the row has both '{first}' and '{second}', which are two forms of a row.",
            hint=f"Set one aside: --map {second}=unused.",
        )
    if reads:
        return reads[0]
    named = ", ".join(f"'{name}'" for name in list(values)[:8]) or "nothing"
    meant = [f"--map {name}={_MEANT[name]}" for name in values if name in _MEANT]
    hint = (
        f"If this is what you mean, pass {' '.join(meant)}." if meant else f"{FORMS} Rename columns with --map OLD=NEW."
    )
    raise DataError(
        f"{columns.where}: the row has no known columns, neither 'messages' nor 'prompt' and 'completion' nor another "
        f"form's; it has {named}.",
        hint=hint,
    )


def _refuse_other_methods(values: Mapping[str, Any], where: str) -> None:
    """DataError, by name, for rows that are made for another method than supervised tuning, or hold more than text."""

    def refuse(name: str, what: str) -> NoReturn:
        raise DataError(
            f"{where}: {what}.",
            hint=f"Leave such rows out; if '{name}' means something else, set it aside with --map {name}=unused.",
        )

    output = values.get("output")
    for name in _MEDIA:
        if values.get(name):
            refuse(name, f"the column '{name}' holds more than text, and only text can be learned from")
    for name in values:
        if name.startswith(_PREFERENCE):
            refuse(name, f"'{name}' makes this a preference row, and tuning on preferences (DPO) is not supported")
    if isinstance(output, list):
        refuse("output", "a list in 'output' makes this a preference row, and tuning on preferences is not supported")
    for name in _VERDICT:
        if name in values:
            refuse(name, f"'{name}' says whether the answer is good, and tuning on verdicts (KTO) is not supported")
    for name in _RANKING:
        if values.get(name) is not None:
            refuse(name, f"'{name}' ranks or scores answers, and tuning on rankings or rewards is not supported")
    for name in _UNSUPPORTED:
        if values.get(name) is not None:
            refuse(name, f"'{name}' would change what is learned, and is not supported")


def _chat(columns: _Columns) -> Row:
    given = [name for name in CHAT if columns.has(name)]
    if not given:
        raise DataError(f"{columns.where}: the row's messages are null.")
    if len(given) > 1:
        raise DataError(f"{columns.where}: the row has both '{given[0]}' and '{given[1]}'.")
    return _conversation(read_turns(columns.take(given[0]), given[0], columns.where), columns)


def _completion(columns: _Columns) -> Row:
    where = columns.where
    prompt, completion = columns.take("prompt"), columns.take("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        before = read_turns(prompt, "prompt", where)
        after = read_turns(completion, "completion", where)
        if not any(message["role"] == "assistant" for message in after.messages):
            raise DataError(f"{where}: 'completion' has no message of the role 'assistant', so there is no answer.")
        # An assistant's turn in the prompt is read, unless it says itself that it is learned.
        turns = zip(before.messages, before.learned, strict=True)
        learned = tuple(bool(asked) if turn["role"] == "assistant" else asked for turn, asked in turns)
        joined = Turns(before.messages + after.messages, learned + after.learned, before.remarks + after.remarks)
        return _conversation(joined, columns)
    if isinstance(prompt, list) or isinstance(completion, list):
        raise DataError(f"{where}: 'prompt' is {kind(prompt)} and 'completion' {kind(completion)}: they must be alike.")
    texts = [columns.text(name) for name in COMPLETION]
    columns.refuse_context("a prompt that is plain text")
    return CompletionRow(where, texts[0], texts[1], columns.remarks())


def _alpaca(columns: _Columns) -> Row:
    where = columns.where
    answer = columns.text("output")
    history = columns.take("history") or []
    asked = [columns.take(name) for name in ("instruction", "input")]
    question = "\n".join(
        read_text(text, f"'{name}'", where)
        for name, text in zip(("instruction", "input"), asked, strict=True)
        if text is not None
    )
    if not question:
        raise DataError(f"{where}: 'instruction' is empty.", hint=columns.map_hint("instruction"))
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise DataError(f"{where}: 'history' is not a list of pairs of question and answer.")
    turns: list[Message] = []
    for user, assistant in [*history, (question, answer)]:
        turns += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return _conversation(read_turns(turns, "history", where), columns)


def _text(columns: _Columns) -> Row:
    value = columns.take("text")
    if not isinstance(value, str | None):
        raise DataError(f"{columns.where}: 'text' is {kind(value)}, not a string.")
    columns.refuse_context("a text")
    if not (value or "").strip():
        return ExcludedRow(columns.where, "the text is empty", columns.remarks())
    return TextRow(columns.where, value or "", columns.remarks())


def _conversation(turns: Turns, columns: _Columns) -> Row:
    """The row of a conversation, with the columns that any conversation may have beside it."""
    where = columns.where
    messages, learned = list(turns.messages), list(turns.learned)
    system = columns.take("system")
    if system is not None:
        if messages[0]["role"] in ("system", "developer"):
            raise DataError(f"{where}: the row has a column 'system' and a system message.")
        messages.insert(0, {"role": "system", "content": read_text(system, "'system'", where)})
        learned.insert(0, None)
    tools = [read_tools(columns.take(name), name, where) for name in ("tools", "functions")]
    if all(tools):
        raise DataError(f"{where}: the row has both 'tools' and 'functions'.")
    columns.refuse_context("a conversation")
    context_only = _context_only(messages, learned, where)
    remarks = (*turns.remarks, *columns.remarks())
    if context_only == {k for k, message in enumerate(messages) if message["role"] == "assistant"}:
        return ExcludedRow(where, "every answer has the weight 0", remarks)
    return ChatRow(where, tuple(messages), tools[0] or tools[1], context_only, remarks)


def _context_only(messages: list[Message], learned: list[bool | None], where: str) -> frozenset[int]:
    answers = {k for k, message in enumerate(messages) if message["role"] == "assistant"}
    if not answers:
        raise DataError(f"{where}: no message has the role 'assistant', so there is no answer to learn.")
    for k, asked in enumerate(learned):
        if asked and k not in answers:
            raise DataError(
                f"{where}: a message of the {messages[k]['role']} has the weight 1, but only answers are learned."
            )
    context_only = frozenset(k for k in answers if learned[k] is False)
    first = next((k for k, message in enumerate(messages) if message["role"] not in ("system", "developer")), 0)
    if first in answers - context_only:
        raise DataError(f"{where}: the first message is the assistant's, so there is nothing that it answers.")
    return context_only
