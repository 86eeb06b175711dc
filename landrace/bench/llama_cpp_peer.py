"""llama.cpp as a runner, through llama-cpp-python's low-level interface. Never imports torch."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from landrace.errors import CheckpointError, LandraceError

MICRO_BATCH = 512
"""Tokens llama.cpp computes at once (n_ubatch); also its own default."""
PROMPT_ROOM = 4096
"""Tokens the context for single prompts holds."""
_PADDING = 256
"""A context's tokens for each sequence are a multiple of this."""

_ERROR_LEVEL = 4

Entry = tuple[int, int, int, bool]
"""One row of a batch: token, position, sequence, and whether its logits are wanted."""


def _log_errors_only(level: int, text: bytes, data: object) -> None:
    if level == _ERROR_LEVEL:
        sys.stderr.write(text.decode(errors="replace"))


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_log_errors_only)
"""The library calls it for as long as it is loaded, so it lives as long as the module."""


class LlamaCpp:
    """A `Runner` on a .gguf file: one context for single prompts, and one for the streams of a decode row.

    `n_threads` is `n_threads_batch`; layers with windows keep no more than these, as in llama.cpp's own programs;
    repacking, flash attention and the cache's type are the library's defaults.
    Raises CheckpointError when llama.cpp cannot open the file.
    """

    name = "llama.cpp"
    max_streams = 256

    def __init__(self, path: Path, threads: int) -> None:
        self._lib: Any = import_module("llama_cpp")
        self._lib.llama_log_set(_LOG, None)
        self._lib.llama_backend_init()
        self._threads = threads
        self._model = self._lib.llama_model_load_from_file(os.fsencode(path), self._lib.llama_model_default_params())
        if not self._model:
            raise CheckpointError(f"llama.cpp cannot open {path}.", hint="Leave it out of --against.")
        self._vocab_size = int(self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model)))
        self._batch = self._lib.llama_batch_init(PROMPT_ROOM, 0, 1)
        self._single = self._context(streams=1, tokens=PROMPT_ROOM)
        self._streams: Any = None
        self._prompts: list[tuple[int, ...]] = []
        self._first: list[int] = []
        self._tokens: list[int] = []
        self._held = 0
        self._recurs = any(
            is_one(self._model) for is_one in (self._lib.llama_model_is_recurrent, self._lib.llama_model_is_hybrid)
        )
        """Whether the model has states, which cannot be taken back to an earlier token."""
        self._states: list[Any] = []
        """After the prompts, by sequence, where there are any."""

    def first_token(self, prompt: Sequence[int]) -> int:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._single), False)
        return self._compute(self._single, prompt, sequence=0)

    def first_token_again(self, prompt: Sequence[int]) -> int:
        if self._recurs:
            return self.first_token(prompt)
        last = len(prompt) - 1
        self._forget_from(self._single, 0, last)
        return self._run(self._single, [(prompt[last], last, 0, True)])[0]

    def begin_decode(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        """A repeated prompt is computed once, and its cache copied to the other sequences."""
        self._prompts = [tuple(prompt) for prompt in prompts]
        tokens = -(-(len(self._prompts[0]) + room) // _PADDING) * _PADDING
        self._streams = self._context(streams=len(prompts), tokens=tokens * len(prompts))
        memory = self._lib.llama_get_memory(self._streams)
        computed: dict[tuple[int, ...], int] = {}
        self._first = []
        for sequence, prompt in enumerate(self._prompts):
            origin = computed.setdefault(prompt, sequence)
            if origin == sequence:
                self._first.append(self._compute(self._streams, prompt, sequence))
            else:
                self._lib.llama_memory_seq_cp(memory, origin, sequence, -1, -1)
                self._first.append(self._first[origin])
        self._states = [self._state(sequence) for sequence in range(len(prompts))] if self._recurs else []

    def rewind(self) -> None:
        self._held = len(self._prompts[0])
        self._tokens = list(self._first)
        for sequence in range(len(self._prompts)):
            self._forget_from(self._streams, sequence, 0 if self._recurs else self._held)
        for sequence, state in enumerate(self._states):
            if not self._lib.llama_state_seq_set_data(self._streams, state, len(state), sequence):
                raise LandraceError("llama.cpp does not take a state back that it gave.")

    def decode(self, steps: int) -> list[tuple[int, ...]]:
        done = []
        for _ in range(steps):
            entries = [(token, self._held, sequence, True) for sequence, token in enumerate(self._tokens)]
            self._tokens = self._run(self._streams, entries)
            self._held += 1
            done.append(tuple(self._tokens))
        return done

    def end_decode(self) -> None:
        if self._streams is not None:
            self._lib.llama_free(self._streams)
            self._streams = None
            self._states = []

    def close(self) -> None:
        """Gives all memory back; the runner cannot be used any more."""
        self.end_decode()
        self._lib.llama_free(self._single)
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_model_free(self._model)

    def _context(self, *, streams: int, tokens: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = tokens, streams
        params.n_batch, params.n_ubatch = PROMPT_ROOM, MICRO_BATCH
        params.n_threads = params.n_threads_batch = self._threads
        params.swa_full = False
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise LandraceError(f"llama.cpp cannot make a context of {tokens} tokens for {streams} sequences.")
        return context

    def _state(self, sequence: int) -> Any:
        """All that the streams' context holds of a sequence."""
        size = self._lib.llama_state_seq_get_size(self._streams, sequence)
        held = (ctypes.c_uint8 * size)()
        if self._lib.llama_state_seq_get_data(self._streams, held, size, sequence) != size:
            raise LandraceError("llama.cpp does not give the state of a sequence.")
        return held

    def _forget_from(self, context: Any, sequence: int, position: int) -> None:
        if not self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(context), sequence, position, -1):
            raise LandraceError("llama.cpp cannot take tokens of this model out of its cache again.")

    def _compute(self, context: Any, prompt: Sequence[int], sequence: int) -> int:
        """The whole prompt in one call; logits for its last token only."""
        last = len(prompt) - 1
        return self._run(context, [(token, at, sequence, at == last) for at, token in enumerate(prompt)])[0]

    def _run(self, context: Any, entries: Sequence[Entry]) -> list[int]:
        """One llama_decode; the likeliest token after each row whose logits are wanted."""
        if len(entries) > PROMPT_ROOM:
            raise LandraceError(f"The llama.cpp runner takes at most {PROMPT_ROOM} tokens in one call.")
        self._fill(entries)
        if code := self._lib.llama_decode(context, self._batch):
            raise LandraceError(f"llama.cpp could not compute a step of {len(entries)} tokens (code {code}).")
        return [self._likeliest(context, row) for row, entry in enumerate(entries) if entry[3]]

    def _fill(self, entries: Iterable[Entry]) -> None:
        batch = self._batch
        for row, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = wanted
            batch.n_tokens = row + 1

    def _likeliest(self, context: Any, row: int) -> int:
        logits = np.ctypeslib.as_array(self._lib.llama_get_logits_ith(context, row), (self._vocab_size,))
        return int(logits.argmax())
