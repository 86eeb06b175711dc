"""`Thinking`: how many tokens of an answer are thoughts, and the tokens that end them when their budget is spent."""

from __future__ import annotations

from landrace.text import Tokenizer
from landrace.text.answers import AnswerForm
from landrace.text.answers.grammar import Thought


class Thinking:
    """Follows the thoughts at the head of one answer, token by token, by the marks that its form names.

    What it forces is a function of the tokens before, so that drafts, batches and seeds change nothing.
    """

    @classmethod
    def of(cls, form: AnswerForm | None, tokenizer: Tokenizer, budget: int | None) -> Thinking | None:
        """What follows the thoughts of an answer in this form; None for one that knows none. `budget`: most tokens of
        thoughts; None: any number."""
        thought = None if form is None else form.grammar.thought
        return None if form is None or thought is None else cls(form, thought, tokenizer, budget)

    def __init__(self, form: AnswerForm, thought: Thought, tokenizer: Tokenizer, budget: int | None) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._open, self._close = thought.open.encode(), thought.close.encode()
        self._end = tuple(tokenizer.encode(thought.end, add_bos=False)) if budget is not None else ()
        self._budget = budget
        self._framed = form.grammar.framed
        self._inside = form.begins_in_thought
        self._may_open = True
        """Whether a thought can still begin: where nothing is around what is said, only before that."""
        self._tail = b""
        """The last bytes, in which a mark may have begun."""
        self._forced = 0
        """Tokens of the end that have been forced."""
        self.n_tokens = 0
        """Tokens of thoughts so far, without their marks."""

    @property
    def forced(self) -> int | None:
        """The token that comes next whatever the model chooses."""
        spent = self._inside and self._budget is not None and self.n_tokens >= self._budget
        return self._end[self._forced] if spent or self._forced else None

    def record(self, token: int) -> None:
        """Notes a token of the answer."""
        if self.forced is not None:
            self._forced += 1
            if self._forced == len(self._end):
                self._forced, self._inside, self._tail = 0, False, b""
            return
        text = self._tail + self._token_bytes(token)
        mark = self._close if self._inside else self._open
        before, found, after = text.partition(mark)
        if self._inside:
            self._inside = not found
            self.n_tokens += not found
        elif self._may_open:
            self._inside = bool(found)
            said = before.strip()
            self._may_open = self._framed or (not said if found else self._open.startswith(said))
            self._inside = self._inside and self._may_open
        self._tail = after if found else text[-len(mark) :]
