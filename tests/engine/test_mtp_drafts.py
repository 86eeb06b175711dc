"""Drafts by a model's own layer for further tokens: answers stay what they are, and guesses are what the layer says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from drafted import KERNELS, MODELS, OPTIONS, Watched, check, generate, requests_of
from ladder import MODELS as LADDER

from landrace.engine import Engine, EngineOptions, Request, SamplingParams
from landrace.engine import depth as depth_module
from landrace.engine import mtp_drafts as mtp_module
from landrace.engine.mtp_drafts import MtpDrafts
from landrace.errors import OptionError
from landrace.kernels.streams import HyperConnections
from landrace.models.batch import ForwardBatch
from landrace.models.decoder import Decoder
from landrace.models.mtp import StreamMtp
from landrace.models.spec import Hyper

STREAMS = "compressed rows, streams that mix"
SHAPES = {
    **MODELS,
    **{name: LADDER[name] for name in ("experts", "latents", "delta nets, latents")},
    STREAMS: {**MODELS["compressed rows"], "residual": Hyper(HyperConnections(2, 1e-2, iterations=4))},
}
del SHAPES["chosen pools"]
CASES = [
    (kernels, options, model)
    for n, model in enumerate(SHAPES)
    for k, kernels in enumerate(KERNELS)
    for o, options in enumerate(OPTIONS)
    if (n + 2 * k + o) % 6 == 0
]
"""Every model on every kernel, and every model and kernel with some options."""


def rigged(decoder: Decoder, noise: float = 1.0) -> Decoder:
    """Each token mostly says the next one, in an order of its own, and the layer mostly agrees."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith(("o_proj.weight", "o_b_proj.weight", "down_proj.weight", "out_proj.weight")):
                parameter *= 0.04
        head = decoder.lm_head
        assert head is not None and decoder.mtp is not None
        head.weight.copy_(decoder.embed_tokens.weight[torch.randperm(len(head.weight), generator=draw)])
        width = decoder.spec.d_model
        decoder.mtp.embedding_norm.weight.fill_(1.0)
        decoder.mtp.norm.weight.copy_(decoder.norm.weight)
        known = noise * width**-0.5 * torch.randn(width, 2 * width, generator=draw)
        known[:, :width] += torch.eye(width)
        if isinstance(decoder.mtp, StreamMtp):
            decoder.mtp.embedding_proj.weight.copy_(known[:, :width])
            decoder.mtp.hidden_proj.weight.copy_(known[:, width:])
        else:
            decoder.mtp.proj.weight.copy_(known)
    return decoder


@pytest.fixture
def make_rigged(tiny_decoder: Callable, on_kernels: Callable) -> Callable[..., Any]:
    def make(kernels: str, *, seed: int = 0, noise: float = 1.0, **spec: object) -> Any:
        return on_kernels(rigged(tiny_decoder(seed=seed, tied=False, mtp=True, **spec), noise), kernels)

    return make


def with_mtp(options: EngineOptions) -> EngineOptions:
    return replace(options, draft="mtp")


@pytest.mark.matrix
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("kernels", "options", "model"), CASES)
def test_the_same_with_the_layer_as_without(
    kernels: str, options: str, model: str, make_rigged: Callable, tokenizer: object
) -> None:
    seed = [*OPTIONS].index(options)
    decoder = make_rigged(kernels, seed=seed, **SHAPES[model])
    requests = requests_of(Random(seed))
    plain = generate(decoder, tokenizer, OPTIONS[options], requests)
    engine = Engine(decoder, tokenizer, with_mtp(OPTIONS[options]))
    drafted = engine.generate(requests)
    check(drafted, plain, exactly=kernels != "reference")
    n_drafted, accepted = (sum(getattr(one, f"{how}_tokens") for one in drafted) for how in ("drafted", "accepted"))
    assert 10 < accepted < n_drafted - 10
    assert engine._drafting is not None and engine._drafting._mtp is not None
    assert engine._drafting._mtp._traces == {}, "what has ended is forgotten"


def chained(decoder: Decoder, text: list[int], n: int) -> list[int]:
    """The layer's likeliest guesses at the tokens after the text, by passes over all of it."""
    with torch.no_grad():
        _, hidden = decoder.with_hidden(ForwardBatch.packed([text]))
        known, after = hidden[:-1], text[1:]
        for _ in range(n):
            logits, read = decoder.with_hidden(replace(ForwardBatch.packed([after]), hidden=known))
            after = [*after, int(logits[-1].argmax())]
            known = torch.cat((known, read[-1:]))
    return after[len(after) - n :]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [EngineOptions(prefix_cache=False), OPTIONS["chunked"], OPTIONS["pre-empted"]])
@pytest.mark.parametrize("model", ["plain", "delta nets", STREAMS])
def test_guesses_are_what_the_layer_says_of_the_text(
    model: str, options: EngineOptions, make_rigged: Callable, tokenizer: object
) -> None:
    """Whatever earlier guesses have left in its cache, and however prompts were cut."""
    decoder = make_rigged("reference", **SHAPES[model])
    params = SamplingParams(max_tokens=50, temperature=0.0, ignore_eos=True)
    requests = [Request(name, tuple(range(1, length)), params) for name, length in (("a", 6), ("b", 30), ("c", 2))]
    engine = Engine(decoder, tokenizer, with_mtp(replace(options, prefix_cache=False)))
    n_drafted = 0

    class Looking(Watched):
        def with_hidden(self, batch: ForwardBatch) -> Any:
            nonlocal n_drafted
            for progress in (live.progress for live in engine._live.values()):
                if batch.hidden is None and progress.draft:
                    assert progress.draft == chained(decoder, progress.tokens, len(progress.draft))
                    n_drafted += len(progress.draft)
            return self._decoder.with_hidden(batch)

    engine.decoder = Looking(decoder, lambda batch: None)  # type: ignore[assignment]
    done = engine.generate(requests)
    assert sum(one.drafted_tokens for one in done) == n_drafted > 40
    assert 5 < sum(one.accepted_tokens for one in done) < n_drafted - 5


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("model", ["plain", "delta nets", STREAMS])
def test_a_prefix_is_found_with_what_the_layer_kept_of_it(
    model: str, make_rigged: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that goes on from another's blocks is guessed for as if it had computed them."""
    decoder = make_rigged("float32", **SHAPES[model])
    params = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
    request = Request("a", tuple(range(1, 50)), params)
    engine = Engine(decoder, tokenizer, with_mtp(EngineOptions(snapshot_tokens=16)))
    first, again = engine.generate([request])[0], engine.generate([replace(request, id="b")])[0]
    assert again.cached_prompt_tokens == 48
    assert first.token_ids == again.token_ids and first.accepted_tokens > 5
    # A snapshot may cut a prompt just before its last token, which is then drafted for.
    assert 0 <= first.accepted_tokens - again.accepted_tokens <= 1


@pytest.mark.usefixtures("eager")
def test_rows_that_nobody_guesses_from_are_computed_together(
    make_rigged: Callable, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_rigged("reference")
    sizes: list[int] = []

    class Counting(Watched):
        def with_hidden(self, batch: ForwardBatch) -> Any:
            if batch.hidden is not None:
                sizes.append(batch.token_ids.numel())
            return self._decoder.with_hidden(batch)

    monkeypatch.setattr(mtp_module, "WAITING", 10)
    monkeypatch.setattr(depth_module, "PROBE", 10**9)
    monkeypatch.setattr(depth_module, "MARGIN", 1e9)
    engine = Engine(Counting(decoder, lambda batch: None), tokenizer, with_mtp(EngineOptions(max_step_tokens=24)))  # type: ignore[arg-type]
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    done = engine.generate([Request("a", tuple(range(1, 41)), params)])
    assert done[0].drafted_tokens == 0
    assert min(sizes) >= 9 and max(sizes) <= 24 and sum(sizes) <= 78


@pytest.mark.usefixtures("free_rows")
def test_it_turns_itself_down_where_guesses_are_wrong_and_probes(make_model: Callable, tokenizer: object) -> None:
    decoder = make_model("reference", mtp=True)
    params = SamplingParams(max_tokens=180, temperature=1.0, seed=1, ignore_eos=True)
    engine = Engine(decoder, tokenizer, with_mtp(EngineOptions()))
    first, second = (engine.generate([Request(name, (1, 2, 3), params)])[0] for name in ("first", "second"))
    assert first.drafted_tokens < 40
    assert 1 <= second.drafted_tokens <= 5


@pytest.mark.usefixtures("eager")
def test_what_ends_early_leaves_nothing_behind(make_rigged: Callable, tokenizer: object) -> None:
    decoder = make_rigged("reference")
    engine = Engine(decoder, tokenizer, with_mtp(EngineOptions()))
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    for name in "abc":
        engine.add(Request(name, (1, 2, 3), params))
    for _ in range(4):
        engine.step()
    assert engine._drafting is not None and isinstance(engine._drafting._writer, MtpDrafts)
    assert len(engine._drafting._writer._traces) == 3
    engine.abort("a")
    engine.weights_changed()
    engine.step()
    assert engine._drafting._writer._traces == {} and not engine.has_work


def test_a_model_without_such_a_layer_is_refused(make_model: Callable, tokenizer: object) -> None:
    with pytest.raises(OptionError, match="mtp"):
        Engine(make_model("reference"), tokenizer, EngineOptions(draft="mtp"))
