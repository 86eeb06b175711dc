"""Scores the same tokens along every path there is, and compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from landrace.certify.answers import answers
from landrace.certify.certificate import (
    BOUNDS,
    NOT_FOLLOWED,
    Certificate,
    EqualChoices,
    PathResult,
    compare_scores,
)
from landrace.certify.choices import adapted, chooses, follow, hear_served, hear_trainer
from landrace.certify.conversations import CONVERSATIONS, PROMPTS
from landrace.certify.engine_path import Adapter, engine_of
from landrace.certify.prompts import compare_prompts
from landrace.certify.scores import Scores, scores_of
from landrace.certify.transformers_path import transformers_scores, why_no_witness
from landrace.checkpoints import Checkpoint
from landrace.checkpoints.adapter import adapter_sha256, read_adapter
from landrace.engine import EngineOptions, SamplingParams
from landrace.errors import LandraceError
from landrace.kernels.capability import native_bfloat16
from landrace.kernels.cpu import native
from landrace.model import Model, cpu_decoder, open_model, resolve_dtype
from landrace.models.batch import ForwardBatch
from landrace.models.cache_spec import Paged
from landrace.models.decoder import Decoder
from landrace.models.graph_decoder import GraphDecoder
from landrace.models.serving import ServingDecoder
from landrace.text import encode_chat
from landrace.training.loss import token_logprobs

REFERENCE = "trainer, float32"
ENGINE_WAYS = {
    "engine, one batch": EngineOptions(max_step_tokens=2048, prefix_cache=False),
    "engine, one at a time": EngineOptions(max_running=1, prefix_cache=False),
    "engine, chunked and paged": EngineOptions(block_size=7, max_step_tokens=13, prefix_cache=False),
    "engine, prefix reused": EngineOptions(block_size=4, snapshot_tokens=4),
}
"""The engine on the reference kernels, with every mechanism in play that could change a token. Recurrent layers keep a
snapshot of every block, so that short texts find one too."""
SERVED = "as served, one batch"
SERVED_WAYS = {
    "as served, one at a time": EngineOptions(max_running=1, prefix_cache=False),
    "as served, chunked and paged": EngineOptions(max_step_tokens=13, prefix_cache=False),
    "as served, prefix reused": EngineOptions(snapshot_tokens=EngineOptions().block_size),
}
"""On the C++ kernels and the weights as stored: held against `SERVED`, to the bit."""

Sequences = Sequence[tuple[int, ...]]


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
    decoder = model.decoder
    reference = _trainer_scores(decoder, sequences, loaded)
    choosing = chooses(decoder.spec)
    paths: list[PathResult] = []
    skipped: list[str] = []

    def compare(
        path: str,
        kind: str,
        scores: Sequence[Scores],
        against: Sequence[Scores] = reference,
        equal_choices: EqualChoices = NOT_FOLLOWED,
    ) -> None:
        paths.append(compare_scores(path, against, scores, BOUNDS[kind], equal_choices))

    for path, options in ENGINE_WAYS.items():
        on_path(path)
        compare(path, "float32", _engine_scores(model, sequences, loaded, options))
    on_path("engine, answers")
    whole, told = answers(model, sequences, loaded)
    compare("engine, answers", "float32", told, _trainer_scores(decoder, whole, loaded))
    extension = native()
    if decoder.device.type != "cpu":
        held = resolve_dtype("auto", decoder.device)
        if choosing:
            skipped.append("as served: near ties of choices are followed on the C++ kernels only")
        elif held == torch.float32:
            skipped.append("as served: this machine serves in float32, as the engine above")
        else:
            on_path(SERVED)
            rounded = Decoder(decoder.spec, dtype=held).load(decoder.named_tensors(), device=decoder.device)
            served_there = Model(name, model.checkpoint, GraphDecoder(rounded), model.tokenizer)
            one_batch = EngineOptions(max_step_tokens=2048, prefix_cache=False)
            compare(SERVED, "bfloat16", _engine_scores(served_there, sequences, loaded, one_batch))
    elif extension is None:
        skipped.append("as served: this machine serves with the reference kernels")
    else:
        served = Model(name, model.checkpoint, cpu_decoder(model.checkpoint, extension), model.tokenizer)
        kind = _arithmetic(model.checkpoint)

        def followed(texts: Sequences) -> tuple[list[Scores], EqualChoices]:
            """The trainer's scores; in a model that chooses, with the choices that are served."""
            if not choosing:
                return _trainer_scores(decoder, texts, loaded), NOT_FOLLOWED
            return follow(decoder, texts, loaded, hear_served(served, texts, loaded))

        on_path(SERVED)
        one_batch = EngineOptions(max_step_tokens=2048, prefix_cache=False)
        batched = _engine_scores(served, sequences, loaded, one_batch)
        compare(SERVED, kind, batched, *(followed(sequences) if choosing else (reference, NOT_FOLLOWED)))
        for path, options in SERVED_WAYS.items():
            on_path(path)
            compare(path, "same bits", _engine_scores(served, sequences, loaded, options), batched)
        on_path("as served, answers")
        whole, told = answers(served, sequences, loaded)
        compare("as served, answers", kind, told, *followed(whole))
    if native_bfloat16(decoder.device):
        on_path(path := "trainer, bfloat16 products")
        rounding = Decoder(decoder.spec, product_dtype=torch.bfloat16)
        rounding.load(decoder.named_tensors(), device=decoder.device)
        if choosing:
            scores, heard = hear_trainer(rounding, sequences, loaded)
            compare(path, "bfloat16", scores, *follow(decoder, sequences, loaded, heard))
        else:
            compare(path, "bfloat16", _trainer_scores(rounding, sequences, loaded))
    else:
        skipped.append("trainer, bfloat16 products: this machine tunes in float32")
    reason = why_no_witness(model, adapter)
    if reason is None:
        on_path("transformers, float32")
        compare("transformers, float32", "float32", transformers_scores(model, sequences, adapter))
    else:
        skipped.append(f"transformers, float32: {reason}")

    template = model.tokenizer.chat_template
    prompts = None
    if template is None:
        skipped.append("prompts: the model has no chat template")
    elif template.built_in is not None:
        skipped.append(f"prompts: the chat template is built in ({template.built_in}), transformers has none")
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
    with adapted(decoder, adapter) as rows:
        logprobs = token_logprobs(decoder, sequences, adapters=rows)
        with torch.no_grad():
            packed = (ForwardBatch.packed([list(ids)], device=decoder.device, adapters=rows) for ids in sequences)
            return [
                scores_of(decoder(batch), ids, known.tolist())
                for batch, ids, known in zip(packed, sequences, logprobs, strict=True)
            ]


def _arithmetic(checkpoint: Checkpoint) -> str:
    """What the stored matrices are multiplied in: the name of a bound."""
    types = {info.dtype for info in checkpoint.tensor_infos.values() if len(info.shape) >= 2}
    if types <= {"F32", "F16"}:
        return "float32"
    return "bfloat16" if types <= {"F32", "F16", "BF16"} else "quantised"


def _engine_scores(
    model: Model[ServingDecoder], sequences: Sequences, adapter: Adapter | None, options: EngineOptions
) -> list[Scores]:
    """With a prefix cache, the first half of every sequence is found there and only the second is scored."""
    with engine_of(model, adapter, options) as complete:
        if options.prefix_cache:
            complete([(ids, SamplingParams(max_tokens=1)) for ids in sequences])
        starts = [len(ids) // 2 if options.prefix_cache else 1 for ids in sequences]
        completions = complete(
            (ids, SamplingParams(max_tokens=0, logprobs=1, prompt_logprobs_from=start))
            for ids, start in zip(sequences, starts, strict=True)
        )
    kept = [group.spec for group in model.decoder.spec.cache_groups]
    block = options.block_size * max(one.every if isinstance(one, Paged) else 1 for one in kept)
    for completion in completions:
        # Rows from the middle on are scored; what lies whole blocks before them can come from the cache.
        reusable = completion.prompt_tokens // 2 > block
        if options.prefix_cache and reusable and not completion.cached_prompt_tokens:
            raise LandraceError("The engine found no cached prefix where one was left for it.")
    return [
        Scores([item.logprob for item in c.prompt_logprobs], [item.top[0][0] for item in c.prompt_logprobs])
        for c in completions
    ]
