"""Scores the same tokens along every path there is, and compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landrace.certify.answers import answer_scores
from landrace.certify.certificate import BOUNDS, Certificate, PathResult, Scores, compare_scores
from landrace.certify.conversations import CONVERSATIONS, PROMPTS
from landrace.certify.prompts import compare_prompts
from landrace.certify.transformers_path import transformers_scores
from landrace.checkpoints import Checkpoint
from landrace.checkpoints.adapter import adapter_sha256, read_adapter
from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.errors import LandraceError
from landrace.kernels.capability import native_bfloat16
from landrace.kernels.cpu import native
from landrace.model import Model, cpu_decoder, open_model
from landrace.models.batch import AdapterRows, ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import LoraSpec
from landrace.models.serving import ServingDecoder
from landrace.text import encode_chat
from landrace.training.loss import token_logprobs

REFERENCE = "trainer, float32"
ENGINE_WAYS = {
    "engine, one batch": EngineOptions(max_step_tokens=2048, prefix_cache=False),
    "engine, one at a time": EngineOptions(max_running=1, prefix_cache=False),
    "engine, chunked and paged": EngineOptions(block_size=7, max_step_tokens=13, prefix_cache=False),
    "engine, prefix reused": EngineOptions(block_size=4),
}
"""The engine on the reference kernels, with every mechanism in play that could change a token."""
SERVED = "as served, one batch"
SERVED_WAYS = {
    "as served, one at a time": EngineOptions(max_running=1, prefix_cache=False),
    "as served, chunked and paged": EngineOptions(max_step_tokens=13, prefix_cache=False),
    "as served, prefix reused": EngineOptions(),
}
"""The same on the C++ kernels and the weights as stored: held against `SERVED`, to the bit."""

Sequences = Sequence[tuple[int, ...]]
Adapter = tuple[LoraSpec, Mapping[str, Tensor]]


def certify(
    name: str,
    adapter: Path | None = None,
    *,
    max_length: int | None = None,
    conversations: Sequence[Sequence[Mapping[str, Any]]] = CONVERSATIONS,
    on_path: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Compares every path with the trainer's forward pass in float32.

    Each path gives every token of every rendered conversation a log-probability (the first token has none) and says
    which token it finds likeliest. `on_path` hears the name of each path before it is taken.
    """
    model = open_model(name, dtype="float32", max_length=max_length)
    sequences = [_token_ids(model, messages) for messages in conversations]
    loaded = read_adapter(adapter, *model.checkpoint.adapter_sources)[:2] if adapter is not None else None

    on_path(REFERENCE)
    reference = _trainer_scores(model.decoder, sequences, loaded)
    paths: list[PathResult] = []
    skipped: list[str] = []

    def compare(
        path: str, kind: str, scores: Callable[[], list[Scores]], against: Sequence[Scores] = reference
    ) -> list[Scores]:
        on_path(path)
        taken = scores()
        paths.append(compare_scores(path, against, taken, BOUNDS[kind]))
        return taken

    def compare_answers(path: str, kind: str, answering: Model[ServingDecoder]) -> None:
        on_path(path)
        trainer, told = answer_scores(
            answering, sequences, loaded, lambda whole: _trainer_scores(model.decoder, whole, loaded)
        )
        paths.append(compare_scores(path, trainer, told, BOUNDS[kind]))

    for path, options in ENGINE_WAYS.items():
        compare(path, "float32", partial(_engine_scores, model, sequences, loaded, options))
    compare_answers("engine, answers", "float32", model)
    extension = native()
    if extension is None or model.decoder.device.type != "cpu":
        skipped.append("as served: this machine serves with the reference kernels")
    else:
        served = Model(name, model.checkpoint, cpu_decoder(model.checkpoint, extension), model.tokenizer)
        kind = _arithmetic(model.checkpoint)
        one_batch = EngineOptions(max_step_tokens=2048, prefix_cache=False)
        batched = compare(SERVED, kind, partial(_engine_scores, served, sequences, loaded, one_batch))
        for path, options in SERVED_WAYS.items():
            compare(path, "same bits", partial(_engine_scores, served, sequences, loaded, options), batched)
        compare_answers("as served, answers", kind, served)
    if native_bfloat16(model.decoder.device):
        compare("trainer, bfloat16 products", "bfloat16", partial(_bfloat16_scores, model, sequences, loaded))
    else:
        skipped.append("trainer, bfloat16 products: this machine tunes in float32")
    needed = ["transformers"] + (["peft"] if adapter is not None else [])
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    if absent:
        skipped.append(f"transformers, float32: {' and '.join(absent)} not installed")
    elif model.decoder.spec.stretched:
        skipped.append("transformers, float32: it chooses positions by the length of each text")
    else:
        compare("transformers, float32", "float32", partial(transformers_scores, model, sequences, adapter))

    template = model.tokenizer.chat_template
    prompts = None
    if template is None:
        skipped.append("prompts: the model has no chat template")
    elif importlib.util.find_spec("transformers") is None:
        skipped.append("prompts: transformers not installed")
    else:
        on_path("prompts")
        prompts = compare_prompts(model.checkpoint, model.tokenizer, template, PROMPTS)
    return Certificate(
        model=name,
        adapter=str(adapter) if adapter is not None else None,
        reference=REFERENCE,
        weights_sha256=model.checkpoint.sha256(),
        adapter_sha256=adapter_sha256(adapter) if adapter is not None else None,
        template_sha256=template.sha256 if template is not None else None,
        dtype="float32",
        max_length=model.decoder.spec.max_length,
        paths=tuple(paths),
        prompts=prompts,
        skipped=tuple(skipped),
    )


def _token_ids(model: Model[Decoder], messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The conversation as the model's template writes it; without a template, its turns as plain lines."""
    if model.tokenizer.chat_template is not None:
        return tuple(encode_chat(model.tokenizer, list(messages), add_generation_prompt=False))
    return tuple(model.tokenizer.encode("\n".join(str(message["content"]) for message in messages)))


def _trainer_scores(decoder: Decoder, sequences: Sequences, adapter: Adapter | None) -> list[Scores]:
    place = decoder.add_adapter(*adapter) if adapter is not None else None
    rows = (AdapterRows(place, None),) if place is not None else ()
    try:
        logprobs = token_logprobs(decoder, sequences, adapters=rows)
        with torch.no_grad():
            likeliest = [
                decoder(ForwardBatch.packed([list(ids)], adapters=rows)).argmax(-1)[:-1].tolist() for ids in sequences
            ]
    finally:
        if place is not None:
            decoder.remove_adapter(place)
    return [Scores(a.tolist(), b) for a, b in zip(logprobs, likeliest, strict=True)]


def _bfloat16_scores(model: Model[Decoder], sequences: Sequences, adapter: Adapter | None) -> list[Scores]:
    decoder = Decoder(model.decoder.spec, product_dtype=torch.bfloat16).load(model.decoder.named_tensors())
    return _trainer_scores(decoder, sequences, adapter)


def _arithmetic(checkpoint: Checkpoint) -> str:
    """What the stored matrices are multiplied in: the name of a bound."""
    types = {info.dtype for info in checkpoint.tensor_infos.values() if len(info.shape) == 2}
    if types <= {"F32", "F16"}:
        return "float32"
    return "bfloat16" if types <= {"F32", "F16", "BF16"} else "quantised"


def _engine_scores(
    model: Model[ServingDecoder], sequences: Sequences, adapter: Adapter | None, options: EngineOptions
) -> list[Scores]:
    """With a prefix cache, the first half of every sequence is found there and only the second is scored."""
    engine = Engine(model.decoder, model.tokenizer, options)
    name = None
    if adapter is not None:
        name = "adapter"
        engine.add_adapter(name, *adapter)
    try:
        if options.prefix_cache:
            once = SamplingParams(max_tokens=1)
            engine.generate([Request(f"first {i}", ids, once, name) for i, ids in enumerate(sequences)])
        completions = engine.generate(
            [
                Request(str(i), ids, SamplingParams(max_tokens=0, logprobs=1, prompt_logprobs_from=start), name)
                for i, ids in enumerate(sequences)
                for start in [len(ids) // 2 if options.prefix_cache else 1]
            ]
        )
    finally:
        if name is not None:
            engine.remove_adapter(name)
    for completion in completions:
        if completion.error is not None:
            raise completion.error
        # Rows from the middle on are scored; what lies whole blocks before them can come from the cache.
        reusable = completion.prompt_tokens // 2 > options.block_size
        if options.prefix_cache and reusable and not completion.cached_prompt_tokens:
            raise LandraceError("The engine found no cached prefix where one was left for it.")
    return [
        Scores([item.logprob for item in c.prompt_logprobs], [item.top[0][0] for item in c.prompt_logprobs])
        for c in completions
    ]
