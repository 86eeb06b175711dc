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
        thoughts; None: any number. `leads_on`: whether what the family writes behind a thought is forced behind those
        too that the model ends."""
        thought = None if form is None else form.grammar.thought
        return None if form is None or thought is None else cls(form, thought, tokenizer, budget, leads_on)

    def __init__(
        self, form: AnswerForm, thought: Thought, tokenizer: Tokenizer, budget: int | None, leads_on: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._thought = thought
        self._open, self._close = thought.open.encode(), thought.close.encode()
        self._beginnings = [thought.close[:size].encode() for size in range(len(thought.close) - 1, 0, -1)]
        """Of the closing mark, the longest first."""
        self._lead = thought.end.partition(thought.close)[2].encode() if leads_on else b""
        """What is forced behind a thought that the model has ended."""
        self._budget = budget
        self._framed = form.grammar.framed
        self._inside = form.begins_in_thought
        self._may_open = True
        """Whether a thought can still begin: where nothing is around what is said, only before that."""
        self._tail = b""
        """The last bytes, in which a mark may have begun."""
        self._begun: tuple[int, ...] = ()
        """Of the last tokens of a thought, how many bytes each has: those that may be the beginning of its end."""
        self._ending: tuple[int, ...] = ()
        """The tokens that are still to be forced."""
        self.n_tokens = 0
        """Tokens of thoughts so far, without their marks."""
        self._end_if_spent()

    @property
    def forced(self) -> int | None:
        """The token that comes next whatever the model chooses."""
        return self._ending[0] if self._ending else None

    @property
    def goes_on(self) -> bool:
        """Whether the next token is part of a thought, or of what the family writes around it."""
        return self._inside or bool(self._ending)

    @property
    def pending(self) -> bytes:
        """Of the mark that ends the thought, what may stand there already."""
        return self._close[: self._n_begun]

    def record(self, token: int) -> None:
        """Notes a token of the answer."""
        if self._ending:
            self._ending = self._ending[1:]
            if not self._ending:
                self._inside, self._tail = False, b""
            return
        data = self._tokenizer.token_bytes(token)
        text = self._tail + data
        mark = self._close if self._inside else self._open
        before, found, after = text.partition(mark)
        self._tail = after if found else text[-len(mark) :]
        if self._inside:
            self._inside = not found
            self._count(data)
            if found and self._lead and self._lead.startswith(after):
                self._ending = tuple(_tokens_behind(self._tokenizer, self._lead[len(after) :].decode()))
        elif self._may_open:
            said = before.strip()
            self._may_open = self._framed or (not said if found else self._open.startswith(said))
            self._inside = bool(found) and self._may_open
        self._end_if_spent()

    def _count(self, data: bytes) -> None:
        """A token of a thought, or of its mark: which of the two may only be known later."""
        if not self._inside:
            self._begun = ()
            return
        self._begun = (*self._begun, len(data))
        while self._begun and sum(self._begun) > self._n_begun:
            self._begun = self._begun[1:]
            self.n_tokens += 1

    @property
    def _n_begun(self) -> int:
        """How many bytes of its closing mark the thought ends with so far."""
        return next((len(one) for one in self._beginnings if self._tail.endswith(one)), 0)

    def _end_if_spent(self) -> None:
        """A token that may begin the mark counts here as one of the thought, which is then never longer than its
        budget."""
        if self._inside and self._budget is not None and self.n_tokens + len(self._begun) >= self._budget:
            self._ending, self._begun = tuple(self._end_from_here()), ()

    def _end_from_here(self) -> list[int]:
        """The tokens of the thought's end, without what the model has written of the mark."""
        if not self._n_begun:
            return self._tokenizer.encode(self._thought.end, add_bos=False)
        _, mark, after = self._thought.end.partition(self._thought.close)
        return _tokens_behind(self._tokenizer, (mark + after).encode()[self._n_begun :].decode())


def _tokens_behind(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of text that goes on from another, so without the space that some vocabularies put before one."""
    before = "\n" if tokenizer.conventions.adds_space else ""
    ids = tokenizer.encode(before + text, add_bos=False)
    left = len(f" {before}") if before else 0
    while left > 0:
        left -= len(tokenizer.token_bytes(ids.pop(0)))
    return ids
