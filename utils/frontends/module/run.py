"""Watching a network run: every operation with its tensors, their labels, and the counts in its arguments.

The example is run once under a `TorchDispatchMode`, so the operations that are seen are those that really
run, whatever Python code leads to them. The parameters and buffers of floating type have a label for each
axis; the rule of each operation says what it ties and which labels its outputs have. An operation without a
rule pins the channels that it reads and is listed, so a result is never wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from ...pruning.channels import ChannelIds, ChannelTracer, Layer, Tie
from ...pruning.layers import BATCH_NORMS, CONVOLUTIONS, DispatchMode
from ...pruning.selection import ChannelSelection
from .running import Reshaping, as_wholes, modules_noted
from .steps import SCALES, Count, Labels, Product, Step, compact, ids_of, rows, spread, varying, vector

PARAMETRIZED = ".parametrizations."
MIXES = "computes statistics over channels"
Norms = Literal["exact", "approximate"]  # of what statistics over channels are: all, or the kept ones


@dataclass
class Seen:
    """A tensor of the run.

    Attributes:
        tensor: itself, so that it lives as long as its labels.
        labels: its channel ids; an axis without an entry keeps its size.
        is_static: whether it depends on parameters and buffers alone.
        writer: name of the layer that it is the direct output of.
        reads: how often an operation read it.
        contracted: the channels that it is a sum of products over, if it is the result of no layer.
    """

    tensor: Tensor
    labels: Labels = field(default_factory=dict)
    is_static: bool = False
    writer: str | None = None
    reads: int = 0
    contracted: ChannelIds | None = None


@dataclass
class Call:
    """An operation that a rule describes.

    Attributes:
        run: the run it is part of.
        func: the operation.
        args, kwargs: its arguments.
        result: its output, a tensor or a sequence.
    """

    run: "Run"
    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    counts: list[Count] = field(default_factory=list)
    product: Product | None = None
    scaled: ChannelIds | None = None
    contracted: ChannelIds | None = None
    is_whole: bool = False  # a module that a rule describes as one operation

    @property
    def module(self) -> nn.Module:
        """The module that runs it."""
        return self.run.module(self.run.where)

    @property
    def name(self) -> str:
        """The module that runs it and the operation."""
        operation = "" if self.is_whole else f" ({self.func.overloadpacket.__name__})"
        return f"{type(self.module).__name__} {self.run.where}".rstrip() + operation

    def argument(self, name: str) -> Any:
        """The argument of that name in the operation's schema."""
        for place, each in enumerate(self.func._schema.arguments):
            if each.name == name:
                if place < len(self.args):
                    return self.args[place]
                return self.kwargs.get(name, each.default_value)
        raise KeyError(name)

    def seen(self, value: Any) -> Seen | None:
        """What is known of a tensor."""
        return self.run.look(value) if isinstance(value, Tensor) else None

    @property
    def tensors(self) -> list[Seen]:
        """All tensors among its arguments."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [self.run.look(leaf) for leaf in leaves if isinstance(leaf, Tensor)]

    def keep(self, label: Tensor, reason: str) -> None:
        """Keep these channels and list the reason."""
        self.run.pin(label, reason)
        self.run.not_followed.append(reason)

    def computes_over(self, label: Tensor, axis: int) -> bool:
        """Whether statistics of the first argument along `axis` may be of the kept channels alone.

        Else the channels are kept.
        """
        if self.run.statistics == "exact" or set(varying(label)) - {axis}:
            self.keep(label, f"{self.name} {MIXES}")
            return False
        self.product = Product(None, {0: (axis, label)}, (), is_norm=True)
        self.run.read.append(ids_of(vector(label, axis)))
        return True

    def one_of(self, label: Tensor, axis: int) -> Tensor:
        """The label with size 1 along an axis, whose places are tied if they have ids of their own."""
        start = label.narrow(axis, 0, 1)
        if axis in varying(label):
            self.run.tie(start, label)
        return start

    def alike(self, label: Tensor, axis: int) -> Tensor:
        """The label with the same ids everywhere along an axis."""
        return self.one_of(label, axis).expand(label.shape)

    def along(self, label: Tensor, axis: int) -> Tensor:
        """(n,) the ids along an axis; what varies along others is tied."""
        for other in set(varying(label)) - {axis}:
            label = self.one_of(label, other)
        return vector(label, axis)

    def refuse(self, reason: str) -> None:
        """Keep all channels that it reads and list the reason."""
        for each in self.tensors:
            for label in each.labels.values():
                self.keep(label, f"{self.name} {reason}")


Rule = Callable[[Call], "list[Labels] | Labels | None"]


class Run(DispatchMode):
    """One run of the example: computes the tensors, and beside them their labels."""

    def __init__(self, model: nn.Module, rules: Mapping[Any, Rule], norms: Norms = "exact") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracer = ChannelTracer()
        self.not_followed: list[str] = []
        self.steps: list[Step] = []
        self.layers: dict[str, Seen] = {}  # name -> its direct output
        self.norms: dict[str, str] = {}  # layer -> batch norm behind it
        self.norm_calls: dict[str, int] = {}
        self.read: list[ChannelIds] = []  # ids that a product contracts
        self.gates: list[tuple[Seen, Tensor, Tensor]] = []
        self.inputs: list[Tensor] = []
        self.where = ""
        self._around: list[str] = []  # the modules that run around that one
        self.statistics = norms
        self._rules = rules
        self._wholes = [kind for kind in rules if isinstance(kind, type)]
        self._model = model
        self._known: dict[int, Seen] = {}
        self._storages: dict[int, list[Seen]] = {}
        self._sections: set[bytes] = set()
        self.owners: list[tuple[int, str]] = []  # first id of each labelled parameter, its name
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._label(name, tensor)

    def _label(self, name: str, tensor: Tensor) -> None:
        labels: dict[int, Tensor] = {}
        if tensor.is_floating_point():
            self.owners.append((self.tracer.count, name))
            parent = name.rpartition(".")[0]
            module = self._model.get_submodule(parent.split(PARAMETRIZED)[0])
            convolves = isinstance(module, CONVOLUTIONS) and tensor.ndim > 2
            for axis, size in enumerate(tensor.shape[:2] if convolves else tensor.shape):
                if size < 2:
                    continue
                groups = getattr(module, "groups", 1) if convolves and axis == 1 else 1
                ids = torch.from_numpy(self.tracer.new(size * groups))
                if groups > 1:  # each group has inputs of its own
                    own = ids.view(groups, 1, size).expand(groups, tensor.shape[0] // groups, size)
                    own = own.reshape(tensor.shape[0], size, *[1] * (tensor.ndim - 2))
                    labels[axis] = own.expand(tensor.shape)
                else:
                    labels[axis] = spread(ids, tensor.shape, axis)
        elif name.endswith("index") and isinstance(
            self._model.get_submodule(name.rpartition(".")[0]), ChannelSelection
        ):
            labels[0] = torch.from_numpy(self.tracer.new(len(tensor)))
        self._know(Seen(tensor, labels, is_static=True))

    def _know(self, seen: Seen) -> None:
        self._known[id(seen.tensor)] = seen
        if seen.labels and seen.tensor.layout == torch.strided:
            self._storages.setdefault(seen.tensor.untyped_storage()._cdata, []).append(seen)

    def look(self, tensor: Tensor) -> Seen:
        """What is known of a tensor; one that was made unseen is known by its memory."""
        found = self._known.get(id(tensor))
        if found is not None and found.tensor is tensor:
            return found
        seen = Seen(tensor)
        if tensor.layout == torch.strided:
            for other in self._storages.get(tensor.untyped_storage()._cdata, ()):
                if _layout(other.tensor) == _layout(tensor):
                    seen = Seen(tensor, other.labels, other.is_static)
                    break
            else:
                for other in self._storages.get(tensor.untyped_storage()._cdata, ()):
                    for label in other.labels.values():
                        self.pin(label, "read through memory by code that is not followed")
        self._know(seen)
        return seen

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, and note what it does to the labels."""
        kwargs = kwargs or {}
        call = Call(self, func, args, kwargs, None)
        tensors = call.tensors
        for each in tensors:
            each.reads += 1
        call.result = func(*args, **kwargs)
        self._describe(call, tensors)
        numbers = {name: value for name, value in kwargs.items() if isinstance(value, int | float)}
        plain, near = _plain(args), None
        if numbers or any(isinstance(value, int | float) for value in plain):
            labels = [ids_of(compact(label)) for each in tensors for label in each.labels.values()]
            near = np.concatenate(labels) if labels else None
        step = Step(func, tuple(call.counts), call.product, plain, numbers, near, call.scaled)
        self.steps.append(step)
        return call.result

    def _describe_whole(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Note what a module does that a rule describes as one operation."""
        kind = next(kind for kind in self._wholes if isinstance(module, kind))
        call = Call(self, torch.ops.aten.alias.default, args, kwargs, result, is_whole=True)
        own = [self.look(each) for each in (*module.parameters(), *module.buffers())]
        for each in (*call.tensors, *own):
            each.reads += 1
        self._describe(call, call.tensors, self._rules[kind])
        self.steps.append(Step(call.func, whole=kind))

    def _describe(self, call: Call, tensors: Sequence[Seen], given: Rule | None = None) -> None:
        results = [leaf for leaf in pytree.tree_leaves(call.result) if isinstance(leaf, Tensor)]
        found: Any = None
        if any(each.labels for each in tensors):
            rule = given or self._rule_of(call.func)
            if rule is None:
                call.refuse("is not supported")
            else:
                found = rule(call)
        func = call.func
        if func.overloadpacket in SCALES and len(tensors) == 1 and not tensors[0].is_static:
            own = tensors[0].labels
            heads = [label for label in own.values() if len(varying(label)) > 1]  # other ones in each head
            label = own.get(tensors[0].tensor.ndim - 1, heads[0] if len(own) == len(heads) == 1 else None)
            call.scaled = tensors[0].contracted
            if call.scaled is None and label is not None:
                call.scaled = ids_of(compact(label))
        labels = found if isinstance(found, list) else [found] if found is not None else []
        static = bool(tensors) and all(each.is_static for each in tensors)
        for place, result in enumerate(results):
            own = labels[place] if place < len(labels) and labels[place] is not None else {}
            own = {axis: label for axis, label in own.items() if result.shape[axis] > 1}
            before = self._known.get(id(result))
            if before is not None and before.tensor is result:  # changed in place
                before.labels, before.is_static = own or before.labels, static and before.is_static
                continue
            contracted = tensors[0].contracted if tensors and _is_view(func) else None
            if call.product is not None and call.product.layer is None:
                contracted = call.contracted
            self._know(Seen(result, own, static, contracted=contracted))
        if call.product is not None and call.product.layer and results:
            writer = self.look(results[0])
            writer.writer = call.product.layer
            self.layers.setdefault(call.product.layer, writer)

    def _rule_of(self, func: OpOverload) -> Rule | None:
        """The rule of an operation, None for one that is not supported."""
        packet = func.overloadpacket
        if packet in self._rules:
            return self._rules[packet]
        if func.is_view:
            return self._rules["view"]
        return self._rules["pointwise"] if is_pointwise(func) else None

    # what rules report

    def tie(self, first: Tensor, second: Tensor, kind: Tie = "joint") -> None:
        """Tie the channels of two labels, which broadcast."""
        one, other = torch.broadcast_tensors(compact(first), compact(second))
        self.tracer.tie(one.reshape(-1).numpy(), other.reshape(-1).numpy(), kind)

    def pin(self, label: Tensor, reason: str) -> None:
        """Keep these channels."""
        self.tracer.pin(np.unique(compact(label).numpy()), reason)

    def equal(self, label: Tensor, axis: int) -> None:
        """All vectors along `axis` keep equally many channels."""
        if set(varying(label)) <= {axis}:
            return
        parts = rows(label, axis).numpy()
        key = parts.tobytes()
        if len(parts) > 1 and key not in self._sections:
            self._sections.add(key)
            self.tracer.equal([np.ascontiguousarray(part) for part in parts])

    def add_layer(
        self, name: str, inputs: ChannelIds, outputs: ChannelIds, groups: int, depthwise: bool
    ) -> None:
        """Add a layer whose weights have these ids."""
        self.tracer.record(name, Layer(inputs, outputs, outputs, groups, depthwise))

    def parameter_of(self, label: Tensor) -> str | None:
        """Name of the parameter whose axis has this label."""
        first = int(compact(label).reshape(-1)[0])
        name = None
        for start, owner in self.owners:
            if start > first:
                break
            name = owner
        return name

    def module_of(self, label: Tensor) -> str | None:
        """Name of the module that owns the parameter whose rows have this label."""
        name = self.parameter_of(label)
        if name is None:
            return None
        return name.split(PARAMETRIZED)[0] if PARAMETRIZED in name else name.rpartition(".")[0]

    def is_norm(self, name: str) -> bool:
        """Whether the module of that name is a batch norm."""
        return isinstance(self._model.get_submodule(name), BATCH_NORMS)

    def module(self, name: str) -> nn.Module:
        """The module of that name."""
        return self._model.get_submodule(name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Know which module runs, in `where`."""
        wholes = as_wholes(self._model, self._wholes, self._describe_whole)
        with wholes, modules_noted(self._model, self._enter, self._leave), Reshaping(), self:
            yield

    def _enter(self, name: str) -> None:
        self._around.append(self.where)
        self.where = name

    def _leave(self) -> None:
        self.where = self._around.pop()


def _plain(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(None if isinstance(arg, Tensor | list | tuple) else arg for arg in args)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _is_view(func: OpOverload) -> bool:
    return func.is_view or func.overloadpacket is torch.ops.aten._unsafe_view


def is_pointwise(func: OpOverload) -> bool:
    """Whether torch says so, of the operation or of the one that `func` does in place."""
    if torch.Tag.pointwise in func.tags:
        return True
    name = func.overloadpacket.__name__
    plain = getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else None
    overloads = [getattr(plain, each) for each in plain.overloads()] if plain is not None else []
    return any(torch.Tag.pointwise in each.tags for each in overloads)
