"""What `slim` returns: the pruned network, its report, and its plan, to narrow a fresh network with.

Invariant: `apply_plan(fresh, plan)` strictly loads the `state_dict` of the network that the plan is from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import UnitMask, decode_mask, encode_mask
from ...pruning.costs import costs_of, count_parameters
from ...pruning.layers import CONVOLUTIONS
from ...pruning.surgery import PruningResult
from .proof import Verify, proven
from .subject import ModuleSubject

_PARALLEL = "module."  # prefix of names in DataParallel and DistributedDataParallel


@dataclass(frozen=True)
class Plan:
    """The channels that are left after pruning, to narrow a freshly built network with.

    This is a result. What a policy asks to remove, before pruning, is a `ChannelPlan` or `BlockPlan` of the
    engine.

    Attributes:
        input_shape: shape of the example that the network was traced with.
        input_type: its number type, such as "float32".
        kept: layer name -> (out,) mask of kept output channels; layers that keep all have no entry.
        values: other arguments of `forward` that were fixed.
    """

    input_shape: tuple[int, ...]
    kept: Mapping[str, UnitMask]
    values: Mapping[str, Any] = field(default_factory=dict)
    input_type: str = "float32"

    @classmethod
    def of(cls, subject: ModuleSubject, keep: UnitMask, values: Mapping[str, Any]) -> "Plan":
        """The plan of a mask over the units of a subject."""
        masks = {name: keep[layer.outputs] for name, layer in subject.graph.layers.items()}
        kept = {name: mask for name, mask in masks.items() if not mask.all()}
        example = subject.example[:1]
        return cls(tuple(example.shape), kept, dict(values), str(example.dtype).removeprefix("torch."))

    def to_json(self) -> dict[str, Any]:
        """Plain values; a mask as "count:hex"."""
        kept = {name: encode_mask(mask) for name, mask in self.kept.items()}
        return {
            "input_shape": list(self.input_shape),
            "input_type": self.input_type,
            "kept": kept,
            "values": dict(self.values),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Plan":
        """The plan of what `to_json` returned.

        Raises:
            PruningError: it is not a valid plan.
        """
        try:
            kept = {name: decode_mask(text) for name, text in plain["kept"].items()}
            input_type = plain.get("input_type", "float32")  # plans of older versions have none
            if not isinstance(getattr(torch, input_type), torch.dtype):
                raise TypeError(f"unknown input_type {input_type}")
            return cls(tuple(plain["input_shape"]), kept, plain["values"], input_type)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PruningError(
                "plan", f"not a valid plan ({error!r})", "give what Plan.to_json returned"
            ) from error


@dataclass(frozen=True)
class LayerChange:
    """A layer: its type, its output channels before and after pruning, and how many of them are pinned."""

    name: str
    kind: str
    before: int
    after: int
    pinned: int


@dataclass(frozen=True)
class SlimReport:
    """Result of a pruning run in figures; prints itself.

    Attributes:
        layers: in the order of the network.
        parameters: parameters before and after, frozen ones included.
        macs: multiply-adds of one example before and after, in convolutions and linear layers.
        difference: largest difference between the outputs of the zeroed and the pruned network, over the
            largest output, in float64.
        not_followed: operations that are not supported, whose input channels are therefore kept.
        pins: reasons why channels are kept.
        unfolded: layers that lost the constants of removed channels.
        limits: restrictions of the pruned network that the given one does not have.
        seconds: what took how long.
    """

    layers: tuple[LayerChange, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    difference: float
    not_followed: tuple[str, ...]
    pins: tuple[str, ...]
    unfolded: tuple[str, ...]
    limits: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [
            f"{layer.name:<{width}}  {layer.before:>5} -> {layer.after:<5} {layer.kind}"
            + (f", {layer.pinned} pinned" if layer.pinned else "")
            for layer in self.layers
        ]
        for name, (before, after) in (("parameters", self.parameters), ("multiply-adds", self.macs)):
            lines.append(f"{name}: {before:,} -> {after:,} ({after / max(1, before):.1%})")
        lines.append(f"zeroed / pruned: {self.difference:.1e} of the largest output, float64")
        lines += [f"not followed: {text}" for text in self.not_followed]
        lines += [f"constants lost at: {', '.join(self.unfolded)}"] if self.unfolded else []
        lines += [f"limit: {text}" for text in self.limits]
        return "\n".join(lines)


@dataclass(frozen=True)
class SlimResult:
    """A pruned network.

    Attributes:
        model: of the given class, or the traced network where the code of that class contains channel counts.
        plan: the channels that are left, to narrow a freshly built network with.
        report: figures, and operations that are not supported.
    """

    model: nn.Module
    plan: Plan
    report: SlimReport


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model`, freshly built or trained, with only the channels that the plan keeps.

    Args:
        model: of the class that the plan was made for; a parallel wrapper is removed.
        plan: result of `slim`.

    Raises:
        PruningError: the plan is of another network, or not a plan.
    """
    if not isinstance(plan, Plan):
        raise PruningError(
            "plan", f"is a {type(plan).__name__}", "give Plan.from_json of what to_json returned"
        )
    model = unwrapped(model)
    place, weight = type(model).__name__, next(model.parameters(), torch.empty(0))
    example = torch.zeros(plan.input_shape, dtype=getattr(torch, plan.input_type), device=weight.device)
    if example.is_floating_point():
        example = example.to(weight)
    subject = ModuleSubject.of(model, example, plan.values)
    keep = np.ones(subject.graph.unit_count, dtype=np.bool_)
    for name, mask in plan.kept.items():
        layer = subject.graph.layers.get(name)
        if layer is None or len(layer.outputs) != len(mask):
            found = "no such layer" if layer is None else f"{len(layer.outputs)} channels"
            raise PruningError(
                place, f"{name} has {found}, the plan {len(mask)}", "build the network of the plan"
            )
        keep[layer.outputs[~mask]] = False
    if (subject.graph.legal(keep, np.zeros(len(keep))) != keep).any():
        raise PruningError(place, "ties channels differently from the plan", "build the network of the plan")
    return subject.narrowed(keep).model


def unwrapped(model: nn.Module) -> nn.Module:
    """The network in a parallel wrapper, or itself."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly, also one that a parallel wrapper saved.

    Raises:
        PruningError: it is of another network (with the differences), or not a state dict.
    """
    if not isinstance(state, Mapping):
        raise PruningError("state", f"is a {type(state).__name__}", "give what state_dict() returned")
    is_wrapped = all(str(name).startswith(_PARALLEL) for name in state)
    if is_wrapped and state.keys() != model.state_dict().keys():
        state = {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    try:
        model.load_state_dict(state, strict=True)  # as given: modules look at its metadata
    except RuntimeError as error:
        fact = " ".join(str(error).split())[:300]
        raise PruningError("state", fact, "narrow a fresh network with its plan first: apply_plan") from error


def _not_run(model: nn.Module, subject: ModuleSubject) -> tuple[str, ...]:
    """A text for each layer of the module that its code does not run."""
    return tuple(
        f"{name} ({type(module).__name__}) does not run on the example, so it is not pruned; "
        "if training runs it, exclude the layers that it reads"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
        and not any(f"{name}.{own}" in subject.trace.read for own, _ in module.named_parameters())
    )


def report_of(
    model: nn.Module, subject: ModuleSubject, result: PruningResult[ModuleSubject], verify: Verify
) -> SlimReport:
    """The report, with the comparison of both networks.

    Args:
        model: as given.
        subject: the network that was pruned.
        result: of the engine.
        verify: see `proof.proven`.

    Raises:
        PruningError: the pruned network differs from the zeroed one.
    """
    graph, pruned = subject.graph, result.compact.model
    costs = costs_of(subject.model, graph, subject.example, subject.cells())
    whole = np.ones(graph.unit_count, dtype=np.bool_)
    layers = [
        LayerChange(
            name,
            type(subject.model.get_submodule(name)).__name__,
            len(layer.outputs),
            int(result.keep[layer.outputs].sum()),
            int(graph.pinned[layer.outputs].sum()),
        )
        for name, layer in graph.layers.items()
    ]
    proof = proven(result.folded.model, pruned, subject, verify)
    return SlimReport(
        layers=tuple(layers),
        parameters=(count_parameters(model), count_parameters(pruned)),
        macs=(int(costs.macs(whole)), int(costs.macs(result.keep))),
        difference=proof.difference,
        not_followed=(*subject.trace.not_followed, *_not_run(model, subject)),
        pins=tuple(dict.fromkeys(graph.pin_reasons.values())),
        unfolded=result.unfolded,
        limits=proof.limits,
    )
