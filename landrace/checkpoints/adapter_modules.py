"""Which modules of the hub's model an adapter may name, and what of ours each holds.

Most are linear layers. Experts are linear layers of their own, or parameters with all experts of a layer, which peft
adapts in a form of its own (`target_parameters`):

- A is [experts * rank, in], an expert's rows next to one another; B is [out, rank * experts], an expert's columns that
  many apart.
- peft takes a parameter for [experts, out, in] unless the module that holds it says otherwise. Where one is stored
  [experts, in, out] and its module says nothing, A and B change places.
- Each parameter that is adapted wraps its holder once more, in the order of the parameters; what is inside is called
  base_layer. So `experts.lora_A` is that of the last one, `experts.base_layer.lora_A` that of the one before.

Beside experts, peft takes a module called gate_proj, up_proj or down_proj for theirs, wherever it is. So there the
projections of other feed-forwards are told as parameters too, which changes nothing but the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from landrace.models.families.weights import Source
from landrace.models.lora_spec import PROJECTIONS

EXPERTS = ".experts."
FEED_FORWARD = (".gate_proj", ".up_proj", ".down_proj")


@dataclass(frozen=True)
class HubModule:
    """A linear layer, or a parameter with all experts of one."""

    parts: dict[str, Source]
    """The canonical projections that it holds, by name without `.weight`; an expert's by number, as
    `layers.N.mlp.experts.E.up_proj`."""
    all_experts: bool = False

    @property
    def in_feed_forward(self) -> bool:
        return all(name.endswith(FEED_FORWARD) for name in self.parts)

    @property
    def swapped(self) -> bool:
        """Whether peft's A is our B."""
        return any(source.adapted_as_stored for source in self.parts.values())


def hub_modules(sources: Mapping[str, Source]) -> dict[str, HubModule]:
    """By name: a linear layer's without `.weight`, a parameter's whole."""
    modules: dict[str, HubModule] = {}
    for name, source in sources.items():
        canonical = name.removesuffix(".weight")
        if canonical == name or canonical.rpartition(".")[2] not in PROJECTIONS:
            continue
        if source.stacked is None:
            experts = EXPERTS in canonical
            module = source.tensor if experts else source.tensor.removesuffix(".weight")
            modules.setdefault(module, HubModule({}, experts)).parts[canonical] = source
        else:
            for expert, tensor in enumerate(source.tensors):
                one = replace(source, tensor=tensor, stacked=None)
                modules[tensor.removesuffix(".weight")] = HubModule({of_expert(canonical, expert): one})
    return modules


def of_expert(canonical: str, expert: int) -> str:
    """The name of one expert's projection."""
    return canonical.replace(EXPERTS, f"{EXPERTS}{expert}.")


def module_places(modules: Mapping[str, HubModule], is_adapted: Callable[[str], bool]) -> dict[str, str]:
    """Where an adapter that adapts those parameters keeps each module's A and B: place to module."""
    found: dict[str, str] = {}
    for name in reversed(list(modules)):
        place = name
        if modules[name].all_experts:
            if not is_adapted(name):
                continue
            place = name.rpartition(".")[0]
            while place in found:
                place += ".base_layer"
        found[place] = name
    return found


def fold(a: Tensor, b: Tensor, swapped: bool) -> tuple[Tensor, Tensor]:
    """peft's A and B of a parameter, for A [experts, rank, in] and B [experts, out, rank]."""
    if swapped:
        a, b = b.transpose(1, 2), a.transpose(1, 2)
    return a.flatten(0, 1).contiguous(), b.permute(1, 2, 0).flatten(1).contiguous()


def unfold(a: Tensor, b: Tensor, rank: int, swapped: bool) -> tuple[Tensor, Tensor]:
    """The inverse of `fold`."""
    a, b = a.view(-1, rank, a.shape[-1]), b.view(b.shape[0], rank, -1).permute(2, 0, 1)
    return (b.transpose(1, 2), a.transpose(1, 2)) if swapped else (a, b)
