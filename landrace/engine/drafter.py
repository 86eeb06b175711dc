"""`Drafter`: guesses a request's next tokens from what its prompt and its answer said before.

The longest of a few n-grams that end with the last token is looked up at its latest place; what followed it there is
the draft. A guess that was right is followed further, so long repetitions are followed from end to end.

Whether a draft pays is known without trying: every token of the answer tells whether the guess at it was right, drafted
or not. A draft is as long as makes the most tokens a second of those odds and of what rows cost, and where that is one
token a step, nothing is drafted. So a text that does not repeat costs nothing but the watching.
"""

from __future__ import annotations

from collections.abc import Sequence

from landrace.engine.step_times import StepTimes

GRAMS = (4, 2, 1)
"""Numbers of tokens that are looked up, the greatest first."""
READ_AT_ONCE = 1024
"""Tokens of a prompt that are read in one step, so that a long one holds up nobody."""
ODDS = (0.2, 0.35, 0.6, 0.85, 0.95)
"""That a guess is right, by the length of the match behind it: 1, 2 to 3, 4 to 7, 8 to 15 and more tokens. Measured on
answers that quote their prompts; the start of what is learnt of each answer."""
TRIALS = 4
"""So many tokens of an answer count as much as `ODDS`."""
MEMORY = 64
"""So many guesses count."""
MARGIN = 1.5
"""A draft is to bring so many times the tokens that its time would have brought without it."""
LEAST_ODDS = 0.05
"""What is less likely to be reached is not looked at."""


class Drafter:
    """Reads `tokens`, which grow: a prompt of `n_prompt` and its answer. About a microsecond a token."""

    def __init__(self, tokens: Sequence[int], n_prompt: int) -> None:
        self._tokens = tokens
        self._n_prompt = n_prompt
        self._n_read = 0
        self._places: dict[tuple[int, ...], int] = {}
        """By n-gram: where its latest occurrence ends."""
        self._source = 0
        """What stands here is the guess at the next token."""
        self._match = 0
        """How many tokens before the source are known to equal the last ones; 0: there is no guess."""
        self._odds = list(ODDS)
        self._trials = [TRIALS] * len(ODDS)

    def read(self) -> None:
        """Takes up what was added to the tokens."""
        tokens = self._tokens
        end = self._n_read
        for token in tokens[end : end + READ_AT_ONCE]:
            self._judge(token, end >= self._n_prompt)
            end += 1
            for n in GRAMS:
                if n <= end:
                    gram = tuple(tokens[end - n : end])
                    if self._match < n and gram in self._places:
                        self._source, self._match = self._places[gram], n
                    self._places[gram] = end
        self._n_read = end

    def draft(self, room: int, rows: int, expected: float, times: StepTimes) -> tuple[list[int], float]:
        """Guesses at the next tokens, `room` at most, and how many of them will be right on average.

        `rows` and `expected`: what the step computes without them, and how many tokens are expected of it.
        """
        room = min(room, times.most_rows - rows)
        if room <= 0 or self._match == 0 or self._n_read < len(self._tokens):
            return [], 0.0
        best, length, gain = 1.0, 0, 0.0
        reached, right = 1.0, 0.0
        for n in range(1, room + 1):
            reached *= self._odds[_kind(self._match + n - 1)]
            if reached < LEAST_ODDS:
                break
            right += reached
            longer = times.seconds(rows + n) / times.seconds(rows)
            faster = (1 + right / expected) / longer
            if faster > best and right > MARGIN * expected * (longer - 1):
                best, length, gain = faster, n, right
        return self._guess(length), gain

    def _judge(self, token: int, of_answer: bool) -> None:
        """Follows the guess at this token, if it was right."""
        if self._match == 0:
            return
        right = self._tokens[self._source] == token
        if of_answer:
            kind = _kind(self._match)
            self._trials[kind] = min(self._trials[kind] + 1, MEMORY)
            self._odds[kind] += (right - self._odds[kind]) / self._trials[kind]
        self._source, self._match = (self._source + 1, self._match + 1) if right else (0, 0)

    def _guess(self, length: int) -> list[int]:
        """What follows the source. Where that is the end of all tokens, it goes on with itself: a loop."""
        guess = list(self._tokens[self._source : self._source + length])
        while len(guess) < length:
            guess.append(guess[len(guess) - (len(self._tokens) - self._source)])
        return guess


def _kind(match: int) -> int:
    """Index into `ODDS`."""
    return min(match.bit_length(), len(ODDS)) - 1
