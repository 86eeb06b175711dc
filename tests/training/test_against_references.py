"""Several optimizer steps of ours against the same steps in transformers and peft: losses and weights agree."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from landrace.models.adapters import fresh_tensors
from landrace.models.batch import AdapterRows
from landrace.models.lora_spec import PROJECTIONS, LoraSpec
from landrace.training.examples import Example
from landrace.training.optimizer import make_optimizer, optimizer_step
from landrace.training.options import TuneOptions

transformers = pytest.importorskip("transformers")
RATES = (1e-3, 5e-4, 1e-4)


def steps():
    """Three steps of five examples each, of different lengths and masks."""
    generator = torch.Generator().manual_seed(5)
    batches = []
    for _ in RATES:
        batch = []
        for length in (3, 17, 9, 30, 12):
            ids = torch.randint(0, 260, (length,), generator=generator).tolist()
            answer = int(torch.randint(1, length, (1,), generator=generator))
            batch.append(Example(tuple(ids), tuple(i >= answer for i in range(length))))
        batches.append(batch)
    return batches


def reference_model(decoder):
    spec, layer = decoder.spec, decoder.spec.layers[0]
    config = transformers.LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.d_model,
        num_hidden_layers=len(spec.layers),
        num_attention_heads=layer.mixer.n_heads,
        num_key_value_heads=layer.mixer.n_kv_heads,
        head_dim=layer.mixer.head_dim,
        intermediate_size=layer.ffn.d_hidden,
        rms_norm_eps=spec.norm_eps,
        tie_word_embeddings=spec.tie_embeddings,
        max_position_embeddings=spec.max_length,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config).eval()
    weights = {
        name if name.startswith("lm_head") else f"model.{name}": t.clone() for name, t in decoder.named_tensors()
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def padded(batch):
    """input_ids, attention_mask and labels, padded on the right, labels -100 where nothing is trained."""
    longest = max(len(example.token_ids) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(batch):
        n = len(example.token_ids)
        ids[row, :n] = torch.tensor(example.token_ids)
        seen[row, :n] = 1
        labels[row, :n] = torch.where(torch.tensor(example.trained), ids[row, :n], -100)
    return ids, seen, labels


def reference_steps(model, parameters, *, decay, clip):
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
    losses, norms = [], []
    for rate, batch in zip(RATES, steps(), strict=True):
        ids, seen, labels = padded(batch)
        logits = model(input_ids=ids, attention_mask=seen).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, clip).item())
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


def our_steps(decoder, parameters, options, adapters=()):
    optimizer = make_optimizer(parameters, options)
    results = [
        optimizer_step(decoder, optimizer, batch, step=n + 1, rate=rate, options=options, adapters=adapters)
        for n, (rate, batch) in enumerate(zip(RATES, steps(), strict=True))
    ]
    return [r.loss for r in results], [r.grad_norm for r in results]


def test_lora_equals_peft(tiny_decoder):
    peft = pytest.importorskip("peft")
    decoder = tiny_decoder()
    model = reference_model(decoder)
    spec = LoraSpec(4, 8.0)
    start = fresh_tensors(decoder.adaptable(spec.targets), spec, torch.Generator().manual_seed(1))
    slot = decoder.add_adapter(spec, start)
    ours = decoder.adapters[slot].parameters()
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(PROJECTIONS), lora_dropout=0.0)
    )
    theirs = {
        name.removeprefix("base_model.model.model.").removesuffix(".default.weight"): p
        for name, p in model.named_parameters()
        if "lora_" in name
    }
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in ours.items():
            theirs[name].copy_(parameter)
            parameter.requires_grad_(True)
    start = {name: parameter.detach().clone() for name, parameter in ours.items()}
    wanted = reference_steps(model, list(theirs.values()), decay=0.01, clip=0.5)
    got = our_steps(
        decoder,
        ours,
        TuneOptions(rank=4, alpha=8.0, weight_decay=0.01, clip_norm=0.5, micro_tokens=64, max_length=64),
        (AdapterRows(slot, None),),
    )
    assert got[0] == pytest.approx(wanted[0], abs=1e-5)
    assert got[1] == pytest.approx(wanted[1], rel=1e-4)
    assert max(wanted[1]) > 0.5  # clipping was at work
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-5, rtol=0)
        assert (parameter - start[name]).abs().max() > 2e-4


@pytest.mark.parametrize("tie", [True, False])
def test_full_tuning_equals_transformers(tiny_decoder, tie):
    decoder = tiny_decoder(tie=tie)
    model = reference_model(decoder)
    wanted = reference_steps(model, list(model.parameters()), decay=0.1, clip=1.0)
    decoder.requires_grad_(True)
    ours = dict(decoder.named_parameters())
    options = TuneOptions(method="full", weight_decay=0.1, clip_norm=1.0, micro_tokens=64, max_length=64)
    got = our_steps(decoder, ours, options)
    assert got[0] == pytest.approx(wanted[0], abs=1e-5)
    assert got[1] == pytest.approx(wanted[1], rel=1e-4)
    theirs = {name.removeprefix("model."): p for name, p in model.named_parameters()}
    assert theirs.keys() == ours.keys()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-5, rtol=0)
