"""What the runs of a network show: its channels, and the operations that a narrowed one has to do again.

It is run in evaluation mode; in training mode too if that runs layers which evaluation does not; and in each
other way in which its modules compute the same, as `forward_split` in Ultralytics, which its exports call.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import ChannelGraph, ChannelIds
from ...pruning.layers import tensors_in
from .inputs import Inputs
from .rules.table import RULES
from .run import Norms, Rule, Run
from .running import preserved
from .steps import Step, compact, vector

_NO_CODE = (lambda: None).__code__  # of a forward that is not written in Python


@dataclass(frozen=True)
class Way:
    """A run that was followed.

    Attributes:
        steps: its operations in order.
        is_training: whether it was in training mode.
        method: of the modules that have it, what stood for `forward`; "" for `forward` itself.
    """

    steps: tuple[Step, ...]
    is_training: bool = False
    method: str = ""

    @contextmanager
    def prepared(self, model: nn.Module) -> Iterator[None]:
        """Let `model` run in this way; inside of `preserved`, which restores it."""
        model.train(self.is_training)
        for name, module in model.named_modules() if self.method else ():
            if name and callable(getattr(type(module), self.method, None)):
                module.forward = getattr(module, self.method)
        yield


@dataclass(frozen=True)
class Trace:
    """What a run showed.

    Attributes:
        graph: the channels.
        steps: the operations of the run in evaluation mode, in order.
        tensors: name of a parameter or buffer -> axis -> (shape) units, size 1 where they do not vary.
        units: (ids,) unit of each id.
        not_followed: a text for each operation that is not supported.
        read: names of the parameters and buffers that an operation read.
        others: further runs, where these may do something else.
    """

    graph: ChannelGraph
    steps: tuple[Step, ...]
    tensors: Mapping[str, Mapping[int, Tensor]]
    units: ChannelIds
    not_followed: tuple[str, ...]
    read: frozenset[str] = frozenset()
    others: tuple[Way, ...] = ()


def traced(
    model: nn.Module, inputs: Inputs, norms: Norms = "exact", rules: Mapping[Any, Rule] = RULES
) -> Trace:
    """Run `model` once and follow its channels; errors as in `ModuleSubject.of`."""
    run = Run(model, rules, norms)
    given = inputs.mapped(Tensor.clone)
    run.inputs = given.tensors
    labels = {name: run.look(tensor).labels for name, tensor in every_tensor(model)}
    with preserved(model), run.watching():
        try:
            outputs = given.given_to(model)
        except Exception as error:
            text = " ".join((str(error).strip().splitlines() or [""])[0].split())[:200]
            fact = f"does not run on a batch of shape {inputs.shapes} ({type(error).__name__}: {text})"
            raise PruningError(type(model).__name__, fact, "give an input that it accepts") from error
    steps = tuple(run.steps)
    _pin_outputs(run, outputs)
    was_read = frozenset(name for name, tensor in every_tensor(model) if run.look(tensor).reads)
    _find_norms(run)
    _tie_heads(model, run, was_read)
    for seen, large, small in run.gates:  # not a gate: a factor that something else reads too
        if seen.reads == 1:
            run.tie(large, small, "gate")
    ways = [*_training_ways(model, was_read), *_method_ways(model, inputs, outputs)]
    others = tuple(followed for way in ways if (followed := _followed(model, run, inputs, way)))
    read = np.unique(np.concatenate([np.zeros(0, dtype=np.intp), *run.read]))
    units = run.tracer.units()
    graph = _pinned_unread(run.tracer.finish(units), units[read])
    tensors = {
        name: {axis: torch.from_numpy(units)[compact(label)] for axis, label in own.items()}
        for name, own in labels.items()
    }
    if not graph.layers:
        fact = "runs no convolution or linear layer"
        raise PruningError(type(model).__name__, fact, "give a network with layers to prune")
    notes = tuple(dict.fromkeys(run.not_followed))
    return Trace(graph, steps, tensors, units, notes, was_read, others)


def _pin_outputs(run: Run, outputs: Any) -> None:
    for tensor in tensors_in(outputs):
        for label in run.look(tensor).labels.values():
            run.pin(label, "an output of the network")


def _training_ways(model: nn.Module, was_read: frozenset[str]) -> Iterator[Way]:
    """Training, if a layer does not run in evaluation mode."""
    if {name for name, parameter in model.named_parameters() if parameter.numel() > 1} - was_read:
        yield Way((), is_training=True)


def _method_ways(model: nn.Module, inputs: Inputs, outputs: Any) -> Iterator[Way]:
    """Methods such as `forward_split` that compute what `forward` does where they stand for it."""
    kinds = {type(module) for name, module in model.named_modules() if name}
    found = {
        name
        for kind in kinds
        for name in dir(kind)
        if name.startswith("forward_") and name not in getattr(kind.forward, "__code__", _NO_CODE).co_names
    }
    wanted = tensors_in(outputs)
    for way in (Way((), method=name) for name in sorted(found)):
        with preserved(model), way.prepared(model), torch.no_grad():
            try:
                again = tensors_in(inputs(model))
            except Exception:  # noqa: BLE001 - it takes other arguments
                continue
        if [each.shape for each in again] == [each.shape for each in wanted] and all(
            torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
            for one, other in zip(again, wanted, strict=True)
        ):
            yield way


def _followed(model: nn.Module, run: Run, inputs: Inputs, way: Way) -> Way | None:
    """The way with its operations; None for one that the network cannot go on the example alone."""
    before = len(run.steps)
    with preserved(model), way.prepared(model), run.watching():
        try:
            _pin_outputs(run, inputs(model))
        except Exception:  # noqa: BLE001 - it may need targets, or whatever the user's code asks for
            return None
    return replace(way, steps=tuple(run.steps[before:]))


def _find_norms(run: Run) -> None:
    """Say which batch norm is the only reader of a layer; each of the two runs once."""
    calls = Counter(step.product.layer for step in run.steps if step.product is not None)
    shared = Counter(run.norms.values())
    for layer, norm in run.norms.items():
        if run.layers[layer].reads == calls[layer] == run.norm_calls[norm] == shared[norm] == 1:
            run.tracer.norm(layer, norm)


def _tie_heads(model: nn.Module, run: Run, was_read: frozenset[str]) -> None:
    """The code of torch's own attention has one width for what it reads and for q, k and v."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and f"{name}.out_proj.weight".lstrip(".") in was_read:
            weights = [
                module.in_proj_weight,
                module.q_proj_weight,
                module.k_proj_weight,
                module.v_proj_weight,
            ]
            found = [run.look(each).labels for each in weights if isinstance(each, Tensor)]
            width = module.embed_dim
            parts = [each for own in found if 0 in own for each in vector(own[0], 0).split(width)]
            outputs = run.look(module.out_proj.weight).labels
            parts += [vector(outputs[0], 0)] if 0 in outputs else []
            if len(parts) > 1:
                run.tracer.equal([np.ascontiguousarray(part.numpy()) for part in parts])


def _pinned_unread(graph: ChannelGraph, read: ChannelIds) -> ChannelGraph:
    """Keep channels that no product reads: whatever reads them was not seen."""
    reasons: dict[int, str] = {}
    is_read = np.zeros(graph.unit_count, dtype=np.bool_)
    is_read[read] = True
    for layer in graph.layers.values():
        if not layer.depthwise:
            is_read[layer.inputs] = True
    for name, layer in graph.layers.items():
        for unit in layer.outputs[~is_read[layer.outputs]].tolist():
            reasons.setdefault(unit, f"no layer reads the output of {name}")
    return graph.keeping(reasons)


def every_tensor(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every parameter and buffer; of those that modules share, each name."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
