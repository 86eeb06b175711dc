"""LoRA tuning speed against peft + transformers: the same weights, adapter shape and ragged examples, in turns.

    python bench/tune_vs_peft.py MODEL.gguf|FOLDER [--pairs 5] [--examples 32] [--threads 2]

One measurement is one optimizer step over all examples. Both sides run their matrix products in bfloat16: ours as
`landrace tune` does, peft under autocast over float32 weights (`--peft-bfloat16` gives it bfloat16 weights instead).
Ours packs; peft's side gets what is best for it here: batches sorted by length, padded on the right. Tokens are the
real ones, padding not counted. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import peft
import torch
import transformers

from landrace.checkpoints.checkpoint import Checkpoint, open_checkpoint
from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows
from landrace.models.decoder import Decoder
from landrace.models.lora_spec import PROJECTIONS, LoraSpec
from landrace.training.examples import Example
from landrace.training.optimizer import make_optimizer, optimizer_step
from landrace.training.options import TuneOptions

OPTIONS = TuneOptions(rank=16, alpha=32.0)
RATE = 5e-4


def ragged_examples(count: int, vocab_size: int) -> list[Example]:
    """Prompts of 15 to 160 tokens, most of them short, and answers of 3 to 12: what short support tickets look like."""
    chance = random.Random(0)
    examples = []
    for _ in range(count):
        prompt = min(160, 15 + int(chance.expovariate(1 / 40)))
        answer = chance.randint(3, 12)
        ids = tuple(chance.randrange(vocab_size) for _ in range(prompt + answer))
        examples.append(Example(ids, (False,) * prompt + (True,) * answer))
    return examples


def our_step(checkpoint: Checkpoint, examples: list[Example]) -> Callable[[], float]:
    decoder = Decoder(checkpoint.spec, dtype=torch.bfloat16).load(checkpoint.tensors())
    spec = LoraSpec(16, 32.0)
    start = fresh_tensors(decoder.adaptable(spec.targets), spec, torch.Generator().manual_seed(0))
    place = decoder.add_adapter(spec, start)
    parameters = decoder.adapters[place].parameters()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = make_optimizer(parameters, OPTIONS)
    adapters = (AdapterRows(place, None),)
    return lambda: (
        optimizer_step(decoder, optimizer, examples, step=1, rate=RATE, options=OPTIONS, adapters=adapters).loss
    )


def peft_step(
    checkpoint: Checkpoint, examples: list[Example], batch: int, *, whole_bfloat16: bool
) -> Callable[[], float]:
    config = transformers.AutoConfig.for_model(**checkpoint.config)
    model = transformers.AutoModelForCausalLM.from_config(config)
    weights = Decoder(checkpoint.spec).load(checkpoint.tensors()).named_tensors()
    model.load_state_dict({n if n.startswith("lm_head") else f"model.{n}": t for n, t in weights}, strict=False)
    model.tie_weights()
    if whole_bfloat16:
        model = model.bfloat16()
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=list(PROJECTIONS)))
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    ordered = sorted(examples, key=lambda example: len(example.token_ids))
    batches = [padded(ordered[i : i + batch]) for i in range(0, len(ordered), batch)]
    trained = sum(sum(example.trained) for example in examples)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        autocast = contextlib.nullcontext() if whole_bfloat16 else torch.autocast("cpu", torch.bfloat16)
        for ids, seen, labels in batches:
            with autocast:
                loss = model(input_ids=ids, attention_mask=seen, labels=labels, num_items_in_batch=trained).loss
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, OPTIONS.clip_norm)
        optimizer.step()
        return total

    return step


def padded(batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(len(example.token_ids) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(batch):
        n = len(example.token_ids)
        ids[row, :n] = torch.tensor(example.token_ids)
        seen[row, :n] = 1
        labels[row, :n] = torch.where(torch.tensor(example.trained), ids[row, :n], -100)
    return ids, seen, labels


def timed(step: Callable[[], float]) -> tuple[float, float]:
    begun = time.perf_counter()
    loss = step()
    return time.perf_counter() - begun, loss


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peft-batch", type=int, default=8)
    parser.add_argument("--peft-bfloat16", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = open_checkpoint(arguments.model)
    examples = ragged_examples(arguments.examples, checkpoint.spec.vocab_size)
    tokens = sum(len(example.token_ids) for example in examples)
    ours = our_step(checkpoint, examples)
    theirs = peft_step(checkpoint, examples, arguments.peft_batch, whole_bfloat16=arguments.peft_bfloat16)
    first = {"landrace": ours(), "peft": theirs()}  # warm-up, and both start from the same loss
    pairs = []
    for number in range(arguments.pairs):
        pairs.append((timed(ours)[0], timed(theirs)[0]))
        print(f"pair {number + 1}: {pairs[-1][0]:.2f} s and {pairs[-1][1]:.2f} s", file=sys.stderr, flush=True)
    print(json.dumps({
        "landrace_tokens_per_second": tokens / statistics.median(a for a, _ in pairs),
        "peft_tokens_per_second": tokens / statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "ratios": [b / a for a, b in pairs],
        "first_loss": first,
        "tokens": tokens,
        "trained_tokens": sum(sum(example.trained) for example in examples),
        "examples": len(examples),
        "peft_batch": arguments.peft_batch,
        "peft_weights": "bfloat16" if arguments.peft_bfloat16 else "float32, autocast",
        "threads": arguments.threads,
        "model_sha256": checkpoint.sha256(),
        "commit": commit(),
        "processor": processor(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
