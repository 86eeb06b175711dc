"""transformers as a runner: AutoModelForCausalLM in bfloat16, one stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from landrace.checkpoints import Checkpoint, write_checkpoint
from landrace.errors import OptionError
from landrace.model import default_device


class Transformers:
    """A `Runner` on a folder that holds config.json and safetensors.

    Its attention implementation and its cache are the library's defaults: the cache grows by a token a step, which is
    faster on a CPU than one of fixed size without compilation.
    """

    name = "transformers"
    max_streams = 1

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = default_device()
        self._model = _load(folder, self._device)
        self._cache: Any = None
        self._stream: Any = None
        self._grown = 0
        self._first = self._token = 0

    def first_token(self, prompt: Sequence[int]) -> int:
        self._cache, token = self._run(None, prompt)
        return token

    def first_token_again(self, prompt: Sequence[int]) -> int:
        self._cache.crop(-1)
        _, token = self._run(self._cache, prompt[-1:])
        return token

    def begin_decode(self, prompts: Sequence[Sequence[int]], room: int) -> None:
        """The cache needs no room: it grows. OptionError for more than one stream."""
        if len(prompts) > self.max_streams:
            raise OptionError(f"The transformers runner decodes one stream, not {len(prompts)}.")
        self._grown = 0
        self._stream, self._first = self._run(None, prompts[0])

    def rewind(self) -> None:
        if self._grown:
            self._stream.crop(-self._grown)
        self._grown = 0
        self._token = self._first

    def decode(self, steps: int) -> list[tuple[int, ...]]:
        done: list[tuple[int, ...]] = []
        for _ in range(steps):
            _, self._token = self._run(self._stream, (self._token,))
            done.append((self._token,))
        self._grown += steps
        return done

    def end_decode(self) -> None:
        self._stream = None

    @torch.inference_mode()
    def _run(self, cache: Any, tokens: Sequence[int]) -> tuple[Any, int]:
        """The cache after `tokens`, and the likeliest token then. Logits for the last token only."""
        ids = torch.tensor([list(tokens)], device=self._device)
        out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.past_key_values, int(out.logits[0, -1].argmax())


def _load(folder: Path, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)  # in evaluation mode already
    return model.to(device)


def as_folder(checkpoint: Checkpoint, scratch: Path) -> Path:
    """A folder transformers can open: the checkpoint's own, or a GGUF's weights unpacked to bfloat16 in `scratch`."""
    if checkpoint.format == "safetensors":
        return checkpoint.path
    tensors = ((name, tensor.to(torch.bfloat16)) for name, tensor in checkpoint.tensors())
    write_checkpoint(scratch, checkpoint.config, checkpoint.hub_sources, tensors)
    return scratch
