"""The plan of a pruned network: which channels are left, as JSON; and a fresh network narrowed by it.

Invariant: `apply_plan(fresh, plan)` strictly loads the `state_dict` of the network that the plan is from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import UnitMask, decode_mask, encode_mask
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
