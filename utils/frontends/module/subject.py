"""Any `nn.Module` as a subject of the engine, followed by watching it run.

The module keeps its class and its code: only tensors and the numbers that describe them change.
Invariants: `narrowed` computes what the network computes with the removed channels at zero wherever a product
reads them; the given module is afterwards as it was before.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import ChannelGraph, ChannelIds, UnitMask
from ...pruning.fold import Constant
from ...pruning.layers import set_widths, shared_copy, tensors_in
from ...pruning.subject import Block
from ...pruning.surgery import PruningResult
from .counts import Fit, MisfitError, counts_matter, fit_counts, rescale
from .inputs import Inputs
from .proof import Zeroed, constants_of
from .rules.table import RULES, rules_of
from .run import Norms, Rule, Run
from .steps import Step, compact, preserved, vector

_MOST_ROUNDS = 40  # each keeps channels that were free before, mostly all that are at fault


@dataclass(frozen=True)
class Trace:
    """What a run showed.

    Attributes:
        graph: the channels.
        steps: the operations in order.
        tensors: name of a parameter or buffer -> axis -> (shape) units, size 1 where they do not vary.
        units: (ids,) unit of each id.
        not_followed: a text for each operation that is not supported.
        read: names of the parameters and buffers that an operation read.
        training: the operations of a run in training mode, where that reads other parameters.
    """

    graph: ChannelGraph
    steps: tuple[Step, ...]
    tensors: Mapping[str, Mapping[int, Tensor]]
    units: ChannelIds
    not_followed: tuple[str, ...]
    read: frozenset[str] = frozenset()
    training: tuple[Step, ...] = ()


@dataclass(frozen=True)
class ModuleSubject:
    """A module to prune; see `pruning.subject.Subject`.

    Attributes:
        model: the module.
        inputs: the first of those of the example, twice.
        trace: what its run showed.
        graph: its channels.
        pinned: names of layers that keep their width.
        is_rescaled: whether weights were multiplied, and rounded, since a scale of the code follows a width.
    """

    model: nn.Module
    inputs: Inputs
    trace: Trace
    pinned: frozenset[str] = frozenset()
    is_rescaled: bool = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Any,
        values: Mapping[str, Any] | None = None,
        norms: Norms = "exact",
        rules: Mapping[Any, Rule] | None = None,
    ) -> Self:
        """Run `model` once on `example` and follow its channels.

        Args:
            model: the module.
            example: (1, ...) an input, a sequence of positional or a dict of keyword arguments, or `Inputs`.
            values: other arguments of its `forward`, fixed.
            norms: whether the channels that a norm computes statistics over stay ("exact"), or may go, so
                that the statistics are of those that are left ("approximate").
            rules: operation, or type of modules -> its rule, beside those that are known.

        Raises:
            PruningError: it does not run on the example, or runs no layer that can be pruned.
        """
        if not isinstance(cast(object, model), nn.Module):
            place = f"{model!r:.60}"
            raise PruningError(place, "not a torch.nn.Module instance", "give a network that is built")
        inputs = Inputs.of(example, values).repeated(2)
        return cls(model, inputs, traced(model, inputs, norms, rules_of(rules or {})))

    @property
    def example(self) -> Tensor:
        """(2, ...) the first tensor of the inputs."""
        return self.inputs.first

    @property
    def graph(self) -> ChannelGraph:
        """Its channels."""
        return self.trace.graph

    @property
    def not_followed(self) -> tuple[str, ...]:
        """A text for each operation that is not supported."""
        return self.trace.not_followed

    @property
    def blocks(self) -> tuple[Block, ...]:
        """None: removing blocks would change the code."""
        return ()

    def pinning(self, names: Iterable[str]) -> Self:
        """The same subject with these layers pinned."""
        pinned = self.pinned | set(names)
        graph = self.graph.pinning(pinned, "excluded")
        return replace(self, trace=replace(self.trace, graph=graph), pinned=pinned)

    def constants(self, alive: UnitMask, blocks: Sequence[Block]) -> dict[str, Constant]:
        """Layer name -> the constant that dead channels give it."""
        del blocks
        return constants_of(self.model, self.inputs, self.trace.steps, self.graph, alive)

    def zeroed(self, keep: UnitMask, blocks: Sequence[Block]) -> Self:
        """The same network with removed channels multiplied by 0."""
        del blocks
        return self.with_model(Zeroed(self.model, self.trace.steps, keep[self.trace.units]))

    def with_model(self, model: nn.Module) -> Self:
        """The same structure with the tensors of another model."""
        return replace(self, model=model)

    def narrowed(self, keep: UnitMask) -> Self:
        """A compact copy of the module, of its class, with the kept channels.

        Raises:
            MisfitError: its code has channel counts that no attribute holds.
        """
        model = shared_copy(self.model)
        narrow_tensors(model, self.trace.tensors, keep)
        for module in model.modules():
            set_widths(module)
        kept, is_rescaled = keep[self.trace.units], False
        try:
            for steps, is_training in ((self.trace.steps, False), (self.trace.training, True)):
                if steps:
                    fit = Fit(model, self.model, self.inputs, steps, kept, is_training)
                    fit_counts(fit)
                    if fit.scales and not is_training:
                        rescale(model, fit.scales, self.trace.tensors, self.trace.units, keep)
                        is_rescaled = True
        except MisfitError as error:
            error.keep = keep
            raise
        return replace(self, model=model, is_rescaled=is_rescaled)

    def cells(self) -> dict[str, int]:
        """Layer name -> how often its kernel is applied to one image."""
        found = dict.fromkeys(self.graph.layers, 0)
        for step in self.trace.steps:
            if step.product is not None and step.product.layer is not None:
                name = step.product.layer
                found[name] += step.product.cells // len(self.example)
        return found

    def resolved(self, error: MisfitError) -> Self:
        """The subject with constraints that make the counts of its code fit.

        A count that is the width of another tensor, since the code takes it from a shape, has to stay equal
        to it; any other one that no attribute holds is kept as it is.
        """
        graph, units, keep = self.graph, self.trace.units, error.keep
        assert keep is not None
        widths = {
            ids.tobytes(): ids for layer in graph.layers.values() for ids in (layer.outputs, layer.inputs)
        }
        equal = list(graph.equal_sections)
        kept: dict[int, str] = {}
        known = {tuple(part.tobytes() for part in parts) for parts in equal}
        for misfit in error.misfits:
            own = units[misfit.ids]
            for ids in widths.values():
                fits = len(ids) == len(own) and int(keep[ids].sum()) == misfit.given
                if fits and (ids != own).any() and (ids.tobytes(), own.tobytes()) not in known:
                    equal.append((ids, own))
                    break
            else:
                place = next((name for name in reversed(misfit.where) if name), type(self.model).__name__)
                kept |= dict.fromkeys(own.tolist(), f"the code of {place} has their number {len(own)}")
        if error.failed_at is not None:
            kept |= self._kept_around(error.failed_at)
        new = replace(graph, equal_sections=tuple(equal)).keeping(kept)
        return replace(self, trace=replace(self.trace, graph=new))

    def _kept_around(self, place: int) -> dict[int, str]:
        """The channels of one product to keep so that code which looks at widths goes the same way.

        The one that follows the operation at which the narrowed network stopped; if that is kept already,
        the nearest before it.
        """
        steps = [step for step in self.trace.steps if step.whole is None and counts_matter(step.func)]
        places = [*range(place, len(steps)), *reversed(range(min(place, len(steps))))]
        nearest = next((each for each in places if steps[each].product is not None), None)
        for each in [nearest, *reversed(range(place))] if nearest is not None else []:
            product = steps[each].product
            for _, label in product.operands.values() if product else ():
                units = np.unique(self.trace.units[compact(label).numpy()])
                if not self.graph.pinned[units].all():
                    return dict.fromkeys(units.tolist(), "the code looks at their number")
        raise PruningError(
            type(self.model).__name__, "its code goes another way when it is narrowed", "exclude its layers"
        )

    def with_scales_kept(self) -> Self:
        """The subject without freedom where a number of the code may follow from a number of channels."""
        scaled = [self.trace.units[step.scaled] for step in self.trace.steps if step.scaled is not None]
        units = np.unique(np.concatenate([np.zeros(0, dtype=np.intp), *scaled]))
        graph = self.graph.keeping(dict.fromkeys(units.tolist(), "the code computes a number from theirs"))
        return replace(self, trace=replace(self.trace, graph=graph))

    def shortened(self, blocks: Sequence[Block]) -> Self:
        """The subject itself, as it has no blocks."""
        del blocks
        return self


def prune_settled(
    subject: ModuleSubject, prune: Callable[[ModuleSubject], PruningResult[ModuleSubject]]
) -> tuple[ModuleSubject, PruningResult[ModuleSubject]]:
    """Prune, and again with what the code keeps fixed as long as that shows when the network is cut."""
    for _ in range(_MOST_ROUNDS):
        try:
            return subject, prune(subject)
        except MisfitError as error:
            subject, last = subject.resolved(error), error
    raise last


def traced(
    model: nn.Module, inputs: Inputs, norms: Norms = "exact", rules: Mapping[Any, Rule] = RULES
) -> Trace:
    """Run `model` once and follow its channels; errors as in `ModuleSubject.of`."""
    run = Run(model, rules, norms)
    run.inputs = inputs.tensors
    labels = {name: run.look(tensor).labels for name, tensor in every_tensor(model)}
    with preserved(model), run.watching():
        try:
            outputs = inputs(model)
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
    training = _training_steps(model, run, inputs, was_read)
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
    return Trace(graph, steps, tensors, units, notes, was_read, training)


def _pin_outputs(run: Run, outputs: Any) -> None:
    for tensor in tensors_in(outputs):
        for label in run.look(tensor).labels.values():
            run.pin(label, "an output of the network")


def _training_steps(model: nn.Module, run: Run, inputs: Inputs, was_read: frozenset[str]) -> tuple[Step, ...]:
    """Follow the network in training mode too if that runs layers which evaluation does not.

    A network that cannot train on the example alone is followed as far as it comes.
    """
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
    if not weights - was_read:
        return ()
    before = len(run.steps)
    with preserved(model), run.watching():
        model.train()
        try:
            _pin_outputs(run, inputs(model))
        except Exception:  # noqa: BLE001 - it may need targets, or whatever the user's code asks for
            return ()
    return tuple(run.steps[before:])


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


def narrow_tensors(model: nn.Module, labels: Mapping[str, Mapping[int, Tensor]], keep: UnitMask) -> None:
    """Cut the parameters and buffers of `model`, in place, each with storage of its own afterwards."""
    kept = torch.from_numpy(keep)
    named = dict(every_tensor(model))
    new: dict[int, Tensor] = {}
    for name, tensor in named.items():
        found = tensor.detach()
        masks = {axis: kept[units] for axis, units in labels.get(name, {}).items()}
        for axis in sorted(masks, key=lambda axis: len(masks[axis].squeeze().shape)):  # rows before columns
            found, cut = _cut(found, axis, masks[axis])
            for other, mask in masks.items():
                if other != axis and cut is not None and mask.shape[axis] > 1:
                    masks[other] = mask.index_select(axis, cut)
        found = found.clone() if found.data_ptr() == tensor.data_ptr() else found.contiguous()
        if isinstance(tensor, nn.Parameter):
            found = nn.Parameter(found, requires_grad=tensor.requires_grad)
        new[id(tensor)] = found
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is not None and id(old) in new:
                    table[name] = new[id(old)]  # type: ignore[assignment]


def _cut(tensor: Tensor, axis: int, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Without the elements along `axis` where `mask` is False; each of its vectors keeps equally many.

    Also the numbers of those that are kept, where they are the same for all vectors.
    """
    mask = mask.to(tensor.device)
    others = [place for place, size in enumerate(mask.shape) if size > 1 and place != axis]
    if not others:
        kept = mask.reshape(-1).nonzero().flatten()
        return tensor.index_select(axis, kept), kept
    count = int(mask.sum(axis).max())
    order = mask.to(torch.int8).argsort(dim=axis, descending=True, stable=True).narrow(axis, 0, count)
    shape = [count if place == axis else size for place, size in enumerate(tensor.shape)]
    return tensor.take_along_dim(order.expand(shape), axis), None
