"""Plans: the channels that are left after pruning, to narrow a fresh network with.

Invariant: `apply_plan(fresh, plan)` strictly loads the `state_dict` of the network that the plan is from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from ...errors import PruningError
from ...pruning.channels import UnitMask, decode_mask, encode_mask
from .inputs import Inputs, is_one_tensor, unwrapped
from .run import Norms, Rule
from .subject import ModuleSubject


@dataclass(frozen=True)
class Plan:
    """The channels that are left after pruning, to narrow a freshly built network with.

    This is a result. What a policy asks to remove, before pruning, is a `ChannelPlan` or `BlockPlan` of the
    engine.

    Attributes:
        input_shape: shape of the first tensor of the example that the network was traced with.
        input_type: its number type, such as "float32".
        norms: whether channels of norms over channels could go.
        inputs: `Inputs.to_json` of the example, None for one tensor.
        kept: layer name -> (out,) mask of kept output channels; layers that keep all have no entry.
        values: other arguments of `forward` that were fixed.
    """

    input_shape: tuple[int, ...]
    kept: Mapping[str, UnitMask]
    values: Mapping[str, Any] = field(default_factory=dict)
    input_type: str = "float32"
    norms: Norms = "exact"
    inputs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, subject: ModuleSubject, keep: UnitMask, norms: Norms) -> "Plan":
        """The plan of a mask over the units of a subject."""
        masks = {name: keep[layer.outputs] for name, layer in subject.graph.layers.items()}
        kept = {name: mask for name, mask in masks.items() if not mask.all()}
        inputs = subject.inputs.repeated(1)
        kind = str(inputs.first.dtype).removeprefix("torch.")
        plain = None if is_one_tensor(inputs) else inputs.to_json()
        return cls(tuple(inputs.first.shape), kept, dict(inputs.fixed), kind, norms, plain)

    @property
    def example(self) -> Inputs:
        """One input of the kind that the network was traced with, zeros where it has floating numbers."""
        if self.inputs is not None:
            return replace(Inputs.from_json(self.inputs), fixed=self.values)
        tensor = torch.zeros(self.input_shape, dtype=getattr(torch, self.input_type))
        return Inputs((tensor,), {}, self.values)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a mask as "count:hex"."""
        kept = {name: encode_mask(mask) for name, mask in self.kept.items()}
        more: dict[str, Any] = {} if self.norms == "exact" else {"norms": self.norms}
        more |= {} if self.inputs is None else {"inputs": self.inputs}
        return {
            "input_shape": list(self.input_shape),
            "input_type": self.input_type,
            "kept": kept,
            "values": dict(self.values),
        } | more

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
            norms = plain.get("norms", "exact")
            if norms not in get_args(Norms):
                raise TypeError(f"unknown norms {norms}")
            shape, inputs = tuple(plain["input_shape"]), plain.get("inputs")
            found = cls(shape, kept, plain["values"], input_type, norms, inputs)
            found.example  # noqa: B018 - raises if it is invalid
            return found
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PruningError(
                "plan", f"not a valid plan ({error!r})", "give what Plan.to_json returned"
            ) from error


def apply_plan(model: nn.Module, plan: Plan, rules: Mapping[Any, Rule] | None = None) -> nn.Module:
    """A copy of `model`, freshly built or trained, with only the channels that the plan keeps.

    Args:
        model: of the class that the plan was made for; a parallel wrapper is removed.
        plan: result of `slim`.
        rules: those that were given to `slim`.

    Raises:
        PruningError: the plan is of another network, or not a plan.
    """
    if not isinstance(plan, Plan):
        raise PruningError(
            "plan", f"is a {type(plan).__name__}", "give Plan.from_json of what to_json returned"
        )
    model = unwrapped(model)
    place, weight = type(model).__name__, next(model.parameters(), torch.empty(0))
    subject = ModuleSubject.of(model, plan.example.to(weight), norms=plan.norms, rules=rules)
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
