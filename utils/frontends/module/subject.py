"""Any `nn.Module` as a subject of the engine, followed by watching it run.

The module keeps its class and its code: only tensors and the numbers that describe them change.
Invariants: `narrowed` computes what the network computes with the removed channels at zero wherever a product
reads them; the given module is afterwards as it was before.

A plan says which channels are left: `apply_plan(fresh, plan)` narrows a fresh network, which then strictly
loads the `state_dict` of the network that the plan is from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import PruningError
from ...pruning.channels import ChannelGraph, ChannelIds, UnitMask, decode_mask, encode_mask
from ...pruning.fold import Constant
from ...pruning.layers import set_widths, shared_copy
from ...pruning.subject import Block
from ...pruning.surgery import PruningResult
from .counts import Fit, MisfitError, counts_matter, fit_counts, rescale
from .inputs import Inputs, is_one_tensor, unwrapped
from .rules.table import RULES, rules_of
from .run import Norms, Rule
from .steps import compact
from .trace import Trace, Way, Zeroed, constants_of, every_tensor, traced

_MOST_ROUNDS = 40  # each keeps channels that were free before, mostly all that are at fault


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
        changed: of a narrowed network, channels that its code combines with other numbers than before.
    """

    model: nn.Module
    inputs: Inputs
    trace: Trace
    pinned: frozenset[str] = frozenset()
    is_rescaled: bool = False
    changed: tuple[ChannelIds, ...] = ()

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
        inputs = Inputs.of(example, values).repeated(2)
        return cls(model, inputs, traced(model, inputs, norms, rules_of(rules) if rules else RULES))

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
        changed: list[ChannelIds] = []
        try:
            for way in (Way(self.trace.steps), *self.trace.others):
                fit = Fit(model, self.model, self.inputs, way, kept)
                fit_counts(fit)
                changed += fit.changed
                if fit.scales and not (way.is_training or way.method):
                    rescale(model, fit.scales, self.trace.tensors, self.trace.units, keep)
                    is_rescaled = True
        except MisfitError as error:
            error.keep = keep
            raise
        return replace(self, model=model, is_rescaled=is_rescaled, changed=tuple(changed))

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

    def with_numbers_kept(self, changed: Sequence[ChannelIds] | None = None) -> Self:
        """Without freedom where numbers of the code were seen to change; None: wherever scales are."""
        scaled = [step.scaled for step in self.trace.steps if step.scaled is not None]
        ids = np.concatenate([np.zeros(0, dtype=np.intp), *(scaled if changed is None else changed)])
        units = np.unique(self.trace.units[ids])
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
    last: MisfitError | None = None
    for _ in range(_MOST_ROUNDS):
        try:
            result = prune(subject)
            if not result.compact.changed:
                return subject, result
            subject, last = subject.with_numbers_kept(result.compact.changed), None
        except MisfitError as error:
            subject, last = subject.resolved(error), error.with_traceback(None)  # which holds a network
            last.__cause__ = None
    fact = "its code computes another number whenever it is narrowed"
    raise last or PruningError(type(subject.model).__name__, fact, "exclude its layers")


def narrow_tensors(model: nn.Module, labels: Mapping[str, Mapping[int, Tensor]], keep: UnitMask) -> None:
    """Cut the parameters and buffers of `model`, in place, each with storage of its own afterwards.

    They stay the same objects, so that what holds them beside the modules holds the cut ones.
    """
    kept = torch.from_numpy(keep)
    done: set[int] = set()
    for name, tensor in every_tensor(model):
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        found = tensor.detach()
        masks = {axis: kept[units] for axis, units in labels.get(name, {}).items()}
        for axis in sorted(masks, key=lambda axis: len(masks[axis].squeeze().shape)):  # rows before columns
            found, cut = _cut(found, axis, masks[axis])
            for other, mask in masks.items():
                if other != axis and cut is not None and mask.shape[axis] > 1:
                    masks[other] = mask.index_select(axis, cut)
        tensor.data = found.clone() if found.data_ptr() == tensor.data_ptr() else found.contiguous()


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
        attributes: name of an attribute of the network's own classes that held a number of channels -> its
            values before and after; to read, as a plan finds them again.
        kept: layer name -> (out,) mask of kept output channels; layers that keep all have no entry.
        values: other arguments of `forward` that were fixed.
    """

    input_shape: tuple[int, ...]
    kept: Mapping[str, UnitMask]
    values: Mapping[str, Any] = field(default_factory=dict)
    input_type: str = "float32"
    norms: Norms = "exact"
    inputs: Mapping[str, Any] | None = None
    attributes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: ModuleSubject, keep: UnitMask, norms: Norms, narrowed: nn.Module) -> "Plan":
        """The plan of a mask over the units of a subject, which led to a narrowed network."""
        masks = {name: keep[layer.outputs] for name, layer in subject.graph.layers.items()}
        kept = {name: mask for name, mask in masks.items() if not mask.all()}
        inputs = subject.inputs.repeated(1)
        kind = str(inputs.first.dtype).removeprefix("torch.")
        plain = None if is_one_tensor(inputs) else inputs.to_json()
        changed = _changed_attributes(subject.model, narrowed)
        return cls(tuple(inputs.first.shape), kept, dict(inputs.fixed), kind, norms, plain, changed)

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
        if self.attributes:
            more["attributes"] = {name: list(values) for name, values in self.attributes.items()}
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
            attributes = {name: (old, new) for name, (old, new) in plain.get("attributes", {}).items()}
            found = cls(shape, kept, plain["values"], input_type, norms, inputs, attributes)
            found.example  # noqa: B018 - raises if it is invalid
            return found
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PruningError(
                "plan", f"not a valid plan ({error!r})", "give what Plan.to_json returned"
            ) from error


def _changed_attributes(model: nn.Module, narrowed: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Numbers and lists of them that differ; those of torch's own modules follow from their weights."""
    found = {}
    for (name, before), after in zip(model.named_modules(), narrowed.modules(), strict=True):
        if type(before).__module__.startswith("torch.nn."):
            continue
        for own, value in vars(before).items():
            new = vars(after).get(own)
            numbers = value if type(value) in (list, tuple) else (value,)
            if all(type(each) is int for each in numbers) and type(new) is type(value) and new != value:
                found[f"{name}.{own}".lstrip(".")] = (value, new)
    return found


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
