"""What is left of a network, as plain JSON, and a freshly built one narrowed by it.

Invariant: `apply_plan(fresh, plan)` takes `state_dict` of the network that the plan was made with, strictly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.node import map_arg

from utils.errors import PruningError
from utils.frontends.fx import FxSubject, graph_of
from utils.pruning.channels import UnitMask
from utils.pruning.narrow import narrow
from utils.pruning.report import decode_mask, encode_mask

_PARALLEL = "module."  # what DataParallel and DistributedDataParallel put before every name


@dataclass(frozen=True)
class Plan:
    """Which channels are left.

    Attributes:
        input_shape: of the example that the network was traced with.
        kept: layer name -> (out,) mask of its output channels, layers that stay whole left out.
        values: other arguments of `forward` that were fixed.
    """

    input_shape: tuple[int, ...]
    kept: Mapping[str, UnitMask]
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: FxSubject, keep: UnitMask, values: Mapping[str, Any]) -> "Plan":
        """From a mask over the units of a subject."""
        masks = {name: keep[layer.outputs] for name, layer in subject.graph.layers.items()}
        kept = {name: mask for name, mask in masks.items() if not mask.all()}
        return cls(tuple(subject.example.shape), kept, dict(values))

    def to_json(self) -> dict[str, Any]:
        """Plain values; a mask as "count:hex"."""
        kept = {name: encode_mask(mask) for name, mask in self.kept.items()}
        return {"input_shape": list(self.input_shape), "kept": kept, "values": dict(self.values)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Plan":
        """What `to_json` gave.

        Raises:
            PruningError: it is something else.
        """
        try:
            kept = {name: decode_mask(text) for name, text in plain["kept"].items()}
            return cls(tuple(plain["input_shape"]), kept, plain["values"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PruningError(f"plan: is none ({error!r}); give what Plan.to_json returned") from error


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model`, freshly built or trained, without the channels that the plan removes.

    Raises:
        PruningError: it is another network.
    """
    place = type(model).__name__
    example = torch.zeros(plan.input_shape).to(next(model.parameters()))
    subject = FxSubject.of(model, example, plan.values)
    keep = np.ones(subject.graph.unit_count, dtype=np.bool_)
    for name, mask in plan.kept.items():
        layer = subject.graph.layers.get(name)
        if layer is None or len(layer.outputs) != len(mask):
            found = "no such layer" if layer is None else f"{len(layer.outputs)} channels"
            raise PruningError(
                f"{place}: {name} has {found}, the plan {len(mask)}; build what it was made for"
            )
        keep[layer.outputs[~mask]] = False
    if (subject.graph.legal(keep, np.zeros(len(keep))) != keep).any():
        raise PruningError(f"{place}: ties other channels than the network of the plan; build that one")
    return finished(model, subject, keep, subject.narrowed(keep), plan.values)


def finished(
    model: nn.Module, subject: FxSubject, keep: UnitMask, compact: FxSubject, values: Mapping[str, Any]
) -> nn.Module:
    """What users get: a narrow module of the given class, or where its code holds numbers the traced one.

    Args:
        model: as given.
        subject: its trace.
        keep: (units,) what is left.
        compact: narrowed by the engine, whose numbers count.
        values: other arguments of `forward` that were fixed.
    """
    if isinstance(model, torch.fx.GraphModule):
        return compact.model.train(model.training)
    plain = narrow(model, subject.graph, keep)
    if subject.sizes and not _runs_as(plain, compact, values):
        return compact.model.train(model.training)
    # what `forward` does not use is in the module and not in the trace
    plain.load_state_dict(plain.state_dict() | compact.model.state_dict(), strict=True)
    return plain.train(model.training)


def _runs_as(plain: nn.Module, compact: FxSubject, values: Mapping[str, Any]) -> bool:
    """Whether its code finds the new numbers by itself, say from its narrower norms."""
    try:
        found = graph_of(plain, compact.example, values)
    except PruningError:
        return False
    return _code(found.graph) == _code(compact.model.graph)


def _code(graph: torch.fx.Graph) -> list[tuple[Any, ...]]:
    """What it does step by step, whatever the steps are called."""
    number: dict[Any, Any] = {node: place for place, node in enumerate(graph.nodes)}
    arguments = (map_arg((node.args, node.kwargs), number.__getitem__) for node in graph.nodes)
    return [(node.op, node.target, *given) for node, given in zip(graph.nodes, arguments, strict=True)]


def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state strictly, also one that a parallel wrapper saved.

    Raises:
        PruningError: it is of another network, with what differs.
    """
    if state and all(name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        fact = " ".join(str(error).split())[:300]
        raise PruningError(f"{fact}; narrow a fresh network with its plan first: apply_plan") from error
