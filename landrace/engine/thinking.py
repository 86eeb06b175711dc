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
    def of(
        cls, form: AnswerForm | None, tokenizer: Tokenizer, budget: int | None, *, leads_on: bool = False
    ) -> Thinking | None:
        """What follows the thoughts of an answer in this form; None for one that knows none. `budget`: most tokens of
        thoughts; None: any number. `leads_on`: whether what the family writes behind a thought is forced there too."""
        thought = None if form is None else form.grammar.thought
        return None if form is None or thought is None else cls(form, thought, tokenizer, budget, leads_on)

    def __init__(
        self, form: AnswerForm, thought: Thought, tokenizer: Tokenizer, budget: int | None, leads_on: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._open, self._close = thought.open.encode(), thought.close.encode()
        self._lead = thought.end.partition(thought.close)[2].encode() if leads_on else b""
        """What is forced behind a thought that the model has ended."""
        self._ending = tuple(tokenizer.encode(thought.end, add_bos=False)) if budget is not None else ()
        self._forced: tuple[int, ...] = ()
        """The tokens that come next whatever the model chooses."""
        self._budget = budget
        self._framed = form.grammar.framed
        self._inside = form.begins_in_thought
        self._may_open = True
        """Whether a thought can still begin: where nothing is around what is said, only before that."""
        self._tail = b""
        """The last bytes, in which a mark may have begun."""
        self.n_tokens = 0
        """Tokens of thoughts so far, without their marks."""
        self._spend()

    @property
    def forced(self) -> int | None:
        """The token that comes next whatever the model chooses."""
        return self._forced[0] if self._forced else None

    @property
    def goes_on(self) -> bool:
        """Whether the next token is part of a thought, or of what the family writes around it."""
        return self._inside or bool(self._forced)

    @property
    def pending(self) -> bytes:
        """Of the mark that ends the thought, what may stand there already."""
        sizes = range(min(len(self._tail), len(self._close) - 1), 0, -1)
        return next((self._close[:n] for n in sizes if self._tail.endswith(self._close[:n])), b"")

    def record(self, token: int) -> None:
        """Notes a token of the answer."""
        if self._forced:
            self._forced = self._forced[1:]
            if not self._forced:
                self._inside, self._tail = False, b""
            return
        text = self._tail + self._tokenizer.token_bytes(token)
        mark = self._close if self._inside else self._open
        before, found, after = text.partition(mark)
        if self._inside:
            self._inside = not found
            self.n_tokens += not found
            if found and self._lead and self._lead.startswith(after):
                self._forced = tuple(self._tokenizer.encode(self._lead[len(after) :].decode(), add_bos=False))
        elif self._may_open:
            self._inside = bool(found)
            said = before.strip()
            self._may_open = self._framed or (not said if found else self._open.startswith(said))
            self._inside = self._inside and self._may_open
        self._tail = after if found else text[-len(mark) :]
        self._spend()

    def _spend(self) -> None:
        """Ends the thought where its budget is spent."""
        if self._inside and self._budget is not None and self.n_tokens >= self._budget:
            self._forced = self._ending
