"""What the runs of a network show, and the network run again as they show.

It is run in evaluation mode; in training mode too if that runs layers which evaluation does not; and in each
other way in which its modules compute the same, as `forward_split` in Ultralytics, which its exports call.

The products of a further run are those of the trace, in the same order, so each is found by its number: with
removed channels at zero (`Zeroed`), with constants alone (`constants_of`). A run that does something else is
an error.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from ...errors import PruningError
from ...pruning.channels import ChannelGraph, ChannelIds, UnitMask
from ...pruning.fold import Constant
from ...pruning.layers import tensors_in
from .inputs import Inputs
from .rules.table import PRODUCTS, RULES
from .run import Norms, Rule, Run
from .running import Beside, preserved, running
from .steps import Product, Step, compact, vector

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


aten = torch.ops.aten
_NORMS = frozenset({aten.native_layer_norm, aten.native_group_norm})


class _Replay(Beside):
    """Runs the products of a trace in another way."""

    def __init__(self, steps: Sequence[Step]) -> None:
        products = PRODUCTS | {step.func.overloadpacket for step in steps if step.product is not None}
        super().__init__(steps, lambda func: func.overloadpacket in products)


class _Zeroing(_Replay):
    """Multiplies removed channels by 0 wherever a product reads them."""

    def __init__(self, steps: tuple[Step, ...], keep: Tensor, are_norms_whole: bool) -> None:
        super().__init__(steps)
        self.keep, self.are_norms_whole = keep, are_norms_whole

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`func` of operands whose removed channels are 0."""
        given = list(args)
        if step.product is not None and step.product.is_norm and not self.are_norms_whole:
            return self._over_kept(step.product, func, given, kwargs)
        for place, (_, label) in (step.product.operands if step.product else {}).items():
            mask = self.keep[compact(label)]
            if not mask.all():
                given[place] = given[place] * _fitted(mask, given[place]).to(given[place])
        return func(*given, **kwargs)

    def _over_kept(
        self, product: Product, func: OpOverload, args: list[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Statistics of the kept channels; what a norm puts out is 0 in the others."""
        axis, label = product.operands[0]
        kept = self.keep[vector(label, axis)].nonzero().flatten().to(args[0].device)
        whole, args[0] = args[0], args[0].index_select(axis, kept)
        if func.overloadpacket not in _NORMS:
            return func(*args, **kwargs)
        first = 2 if func.overloadpacket is aten.native_layer_norm else 1
        for place in (first, first + 1):
            args[place] = args[place].index_select(0, kept) if args[place] is not None else None
        if first == 2:
            args[1] = [len(kept)]
        else:
            args[4] = len(kept)  # after the tensors and the number of images
        found, *others = func(*args, **kwargs)
        return (torch.zeros_like(whole).index_copy(axis, kept, found), *others)


def _fitted(mask: Tensor, value: Tensor) -> Tensor:
    """The mask for another batch size: axes that hold images and channels repeat it."""
    for axis, (size, wanted) in enumerate(zip(mask.shape, value.shape, strict=True)):
        if size not in (1, wanted):
            times = -(-wanted // size)
            mask = mask.repeat(*[times if place == axis else 1 for place in range(mask.ndim)])
            mask = mask.narrow(axis, 0, wanted)
    return mask


class Zeroed(nn.Module):
    """A network whose removed channels are multiplied by 0 wherever a product reads them.

    It runs in evaluation mode, with `is_training` in training mode, and is as it was afterwards. Norms that
    lose channels compute statistics of the others, or with `are_norms_whole` of all, 0 where removed.

    Args:
        model: the full-size network.
        steps: the operations of its trace.
        keep: (ids,) what is kept.
    """

    def __init__(self, model: nn.Module, steps: tuple[Step, ...], keep: UnitMask) -> None:
        super().__init__()
        self.model = model
        self._steps, self._keep = steps, torch.from_numpy(keep)
        self.are_norms_whole = self.is_training = False

    def get_submodule(self, target: str) -> nn.Module:
        """That of the network itself."""
        return self.model.get_submodule(target)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the network with the removed channels at zero."""
        with running(self.model, _Zeroing(self._steps, self._keep, self.are_norms_whole)):
            self.model.train(self.is_training)
            return self.model(*args, **kwargs)


class _Answering(_Replay):
    """Every layer answers its bias alone for dead channels, and noise for the others.

    What a reader then sees in a dead channel is its constant if it is the same everywhere; what depends on
    the image differs from place to place.
    """

    def __init__(
        self, steps: tuple[Step, ...], graph: ChannelGraph, alive: UnitMask, is_other_size: bool = False
    ) -> None:
        super().__init__(steps)
        self.graph, self.alive, self.is_other_size = graph, alive, is_other_size
        self.found: dict[str, Constant] = {}
        self.generator = torch.Generator().manual_seed(0)

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The answer of a layer; any other operation as it is."""
        product = step.product
        if product is None or product.layer is None:
            return func(*args, **kwargs)
        if product.value in product.operands:
            self._note(product.layer, args[product.value], product.operands[product.value][0])
        bias = args[product.bias] if product.bias is not None else None
        weight = next(arg for arg in args if isinstance(arg, Tensor))
        shape = _shape_of(func, args, kwargs) if self.is_other_size else product.result
        answer = torch.rand(shape, generator=self.generator, dtype=torch.float32).to(weight)
        behind = [-1 if place == product.outputs else 1 for place in range(answer.ndim)]
        live = torch.from_numpy(self.alive[self.graph.layers[product.layer].outputs]).to(answer.device)
        answer = answer * live.view(behind)
        if isinstance(bias, Tensor):
            own = bias.view(behind) if bias.ndim == 1 else bias
            answer = answer + own
        return answer

    def _note(self, layer: str, value: Tensor, axis: int) -> None:
        dead = torch.from_numpy(~self.alive[self.graph.layers[layer].inputs])
        if not dead.any() or value.shape[axis] != len(dead):
            return
        places = dead.nonzero().flatten()
        channels = value.detach().index_select(axis, places.to(value.device)).movedim(axis, 0).flatten(1)
        first = channels[:, 0]
        difference = (channels - first[:, None]).abs().amax(1)
        found = ((difference <= 1e-6 * first.abs().clamp(min=1.0)) & first.isfinite()).cpu()
        steady = torch.zeros_like(dead).index_copy(0, places, found)
        values = torch.zeros(len(dead), dtype=torch.float64)
        values[steady] = first.cpu()[found].double()
        before = self.found.get(layer)
        whole = bool(steady[dead].all()) and (before is None or before.is_whole)
        uniform = True
        if before is not None:  # called on several tensors, it has one bias
            uniform = before.is_uniform and torch.allclose(before.values, values)
            values = before.values if before.values.any() else values
        self.found[layer] = Constant(values, values, uniform, whole)


def _shape_of(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[int]:
    """Shape of a result, which is not computed."""
    meta = [each.detach().to("meta") if isinstance(each, Tensor) else each for each in args]
    shape: Sequence[int] = func(*meta, **kwargs).shape
    return shape


def constants_of(
    model: nn.Module, inputs: Inputs, steps: tuple[Step, ...], graph: ChannelGraph, alive: UnitMask
) -> dict[str, Constant]:
    """Layer name -> the constant that dead channels give it, for layers that get one.

    Args:
        model: the network with the gammas of dead channels at 0.
        inputs: arguments of its `forward`.
        steps: the operations of its trace.
        graph: its channels.
        alive: (units,) those that are not dead.
    """
    answering = _Answering(steps, graph, alive)
    with running(model, answering):
        inputs.random()(model)
    found = {n: each for n, each in answering.found.items() if each.values.any() or not each.is_whole}
    larger = [size + 32 for size in inputs.first.shape[2:]]
    if not found or not larger:
        return found
    again = _Answering(steps, graph, alive, is_other_size=True)
    try:
        with running(model, again):
            inputs.random(larger)(model)
    except Exception:  # noqa: BLE001 - it takes no other size, so there is nothing to compare
        return found
    return {name: _common(constant, again.found.get(name, constant)) for name, constant in found.items()}


def _common(one: Constant, other: Constant) -> Constant:
    """What is the same at two sizes."""
    same = torch.isclose(one.values, other.values, rtol=1e-5, atol=1e-7)
    values = torch.where(same, one.values, torch.zeros((), dtype=torch.float64))
    return Constant(values, values, one.is_uniform, one.is_whole and bool(same.all()))
