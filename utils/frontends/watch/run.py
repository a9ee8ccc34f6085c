"""Watching a network run: every operation with its tensors, their labels, and the counts in its arguments.

The example is run once under a `TorchDispatchMode`, so the operations that are seen are those that really
run, whatever Python code leads to them. The parameters and buffers of floating type have a label for each
axis; the rule of each operation says what it ties and which labels its outputs have. An operation without a
rule pins the channels that it reads and is listed, so a result is never wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ...errors import PruningError
from ...pruning.channels import ChannelIds, ChannelTracer, Layer, Tie
from ...pruning.layers import BATCH_NORMS, CONVOLUTIONS, ChannelSelection
from .labels import Labels, compact, rows, spread, varying

PARAMETRIZED = ".parametrizations."


@dataclass
class Seen:
    """A tensor of the run.

    Attributes:
        tensor: itself, so that it lives as long as its labels.
        labels: its channel ids; an axis without an entry keeps its size.
        is_static: whether it depends on parameters and buffers alone.
        writer: name of the layer that it is the direct output of.
        reads: how often an operation read it.
    """

    tensor: Tensor
    labels: Labels = field(default_factory=dict)
    is_static: bool = False
    writer: str | None = None
    reads: int = 0


@dataclass(frozen=True)
class Count:
    """An argument of an operation that counts channels.

    Attributes:
        path: place in the arguments: position, and index in it if it is a list.
        ids: the channels that it counts.
    """

    path: tuple[int, ...]
    ids: ChannelIds


@dataclass(frozen=True)
class Product:
    """A contraction of channels: what reads them.

    Attributes:
        layer: name of the layer with these weights; None for other products.
        operands: position in the arguments -> axis that is contracted and its labels.
        value: position of the tensor that a layer reads.
        cells: how often a layer's kernel is applied.
        result: shape of the output.
        bias: position of the bias, if there is one.
        outputs: axis of the layer's channels in the output.
    """

    layer: str | None
    operands: Mapping[int, tuple[int, Tensor]]
    result: tuple[int, ...]
    bias: int | None = None
    outputs: int = 1
    value: int = 0
    cells: int = 0


@dataclass(frozen=True)
class Step:
    """An operation of the run, as far as a narrowed network needs to know it."""

    func: OpOverload
    counts: tuple[Count, ...] = ()
    product: Product | None = None
    norm: str | None = None  # name of the batch norm that it computes
    args: tuple[Any, ...] = ()  # without tensors


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
    norm: str | None = None

    @property
    def name(self) -> str:
        """The module that runs it and the operation."""
        kind = type(self.run.module(self.run.where)).__name__
        return f"{kind} {self.run.where}".rstrip() + f" ({self.func.overloadpacket.__name__})"

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

    def refuse(self, reason: str) -> None:
        """Keep all channels that it reads and list the reason."""
        for each in self.tensors:
            for label in each.labels.values():
                self.keep(label, f"{self.name} {reason}")


Rule = Callable[[Call], "list[Labels] | Labels | None"]


class Run(TorchDispatchMode):  # type: ignore[misc, no-untyped-call]
    """One run of the example: computes the tensors, and beside them their labels."""

    def __init__(self, model: nn.Module, rule_of: Callable[[OpOverload], Rule | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracer = ChannelTracer()
        self.not_followed: list[str] = []
        self.steps: list[Step] = []
        self.layers: dict[str, Seen] = {}  # name -> its direct output
        self.norms: dict[str, str] = {}  # layer -> batch norm behind it
        self.norm_calls: dict[str, int] = {}
        self.read: list[ChannelIds] = []  # ids that a product contracts
        self.gates: list[tuple[Seen, Tensor, Tensor]] = []
        self.where = ""
        self._rule_of = rule_of
        self._model = model
        self._modules = {id(module): name for name, module in model.named_modules()}
        self._known: dict[int, Seen] = {}
        self._storages: dict[int, list[Seen]] = {}
        self._sections: set[bytes] = set()
        self.names: dict[int, str] = {}
        self.owners: list[tuple[int, str]] = []  # first id of each labelled parameter, its name
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._label(name, tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, as nothing is compiled here: True would load torch.compile, which takes seconds."""
        return False

    def _label(self, name: str, tensor: Tensor) -> None:
        self.names[id(tensor)] = name
        labels: dict[int, Tensor] = {}
        if tensor.is_floating_point():
            self.owners.append((self.tracer._count, name))
            parent, _, leaf = name.rpartition(".")
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
        elif name.rpartition(".")[2] == "index" and tensor.ndim == 1:
            if isinstance(self._model.get_submodule(name.rpartition(".")[0]), ChannelSelection):
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
        self.steps.append(Step(func, tuple(call.counts), call.product, call.norm, _plain(args)))
        return call.result

    def _describe(self, call: Call, tensors: Sequence[Seen]) -> None:
        results = [leaf for leaf in pytree.tree_leaves(call.result) if isinstance(leaf, Tensor)]
        found: Any = None
        if any(each.labels for each in tensors):
            rule = self._rule_of(call.func)
            if rule is None:
                call.refuse("is not supported")
            else:
                found = rule(call)
        labels = found if isinstance(found, list) else [found] if found is not None else []
        static = bool(tensors) and all(each.is_static for each in tensors)
        for place, result in enumerate(results):
            own = labels[place] if place < len(labels) and labels[place] is not None else {}
            own = {axis: label for axis, label in own.items() if result.shape[axis] > 1}
            before = self._known.get(id(result))
            if before is not None and before.tensor is result:  # changed in place
                before.labels, before.is_static = own or before.labels, static and before.is_static
                continue
            self._know(Seen(result, own, static))
        if call.product is not None and call.product.layer and results:
            writer = self.look(results[0])
            writer.writer = call.product.layer
            self.layers.setdefault(call.product.layer, writer)

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
        return (
            None
            if name is None
            else name.split(PARAMETRIZED)[0]
            if PARAMETRIZED in name
            else name.rpartition(".")[0]
        )

    def is_norm(self, name: str) -> bool:
        """Whether the module of that name is a batch norm."""
        return isinstance(self._model.get_submodule(name), BATCH_NORMS)

    def module(self, name: str) -> nn.Module:
        """The module of that name."""
        return self._model.get_submodule(name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Know which module runs, in `where`."""
        with modules_noted(self._model, self._enter, self._leave), Reshaping(), self:
            yield

    def _enter(self, name: str) -> None:
        self._stack = [*getattr(self, "_stack", []), self.where]
        self.where = name

    def _leave(self) -> None:
        self.where = self._stack.pop()


class OtherStepsError(PruningError):
    """The network did not run the operations of its trace."""


class Beside(TorchDispatchMode):  # type: ignore[misc, no-untyped-call]
    """A further run of a network beside some operations of its trace.

    Args:
        steps: all operations of the trace.
        matters: whether a run has to do an operation again; others may differ, as a reshape is a view or
            a view of a copy depending on the sizes.
    """

    def __init__(self, steps: Sequence[Step], matters: Callable[[OpOverload], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps, self.done = [step for step in steps if matters(step.func)], 0
        self._matters = matters

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, see `Run`."""
        return False

    def next_step(self, func: OpOverload) -> Step | None:
        """The step that `func` is; None if it does not matter.

        Raises:
            OtherStepsError: the trace has another operation here.
        """
        if not self._matters(func):
            return None
        step = self.steps[self.done] if self.done < len(self.steps) else None
        if step is None or not _is_same(step.func, func):
            wanted = "the end" if step is None else step.func
            fact = f"operation {self.done} is {func}, in the trace it was {wanted}"
            raise OtherStepsError("forward", fact, "give an example of the size that is used")
        self.done += 1
        return step


_SLICES = frozenset(
    {torch.ops.aten.slice, torch.ops.aten.alias}
)  # code that slices nothing off gets an alias
_VIEWS = frozenset({torch.ops.aten.view, torch.ops.aten._unsafe_view})


def _is_same(one: OpOverload, other: OpOverload) -> bool:
    both = {one.overloadpacket, other.overloadpacket}
    return one == other or both <= _VIEWS or both <= _SLICES


class Reshaping(TorchFunctionMode):
    """`reshape` as a view or a view of a copy, `linear` as the product of two matrices.

    The check of a reshape comes before operations are dispatched, and linear layers are other operations for
    some strides.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func`."""
        kwargs = kwargs or {}
        if func in (torch.reshape, Tensor.reshape) and args:
            value, *shape = args
            shape = kwargs.get("shape", shape[0] if len(shape) == 1 else shape)
            shape = [shape] if isinstance(shape, int) else list(shape)
            return self._reshaped(value, shape)
        if func in (torch.unflatten, Tensor.unflatten) and len(args) == 3:
            value, axis, sizes = args
            axis %= value.ndim
            return self._reshaped(value, (*value.shape[:axis], *sizes, *value.shape[axis + 1 :]))
        if func is nn.functional.linear and args[0].ndim > 2:
            value, *rest = args
            rows = func(self._reshaped(value, (-1, value.shape[-1])), *rest, **kwargs)
            return rows.view(*value.shape[:-1], rows.shape[-1])
        return func(*args, **kwargs)

    def _reshaped(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        return (value if _is_viewable(value, shape) else value.contiguous()).view(*shape)


def _is_viewable(value: Tensor, shape: Sequence[int]) -> bool:
    if value.is_contiguous():
        return True
    try:
        with _disable_current_modes():
            torch.empty_strided(value.shape, value.stride(), device="meta").view(*shape)
    except RuntimeError:
        return False
    return True


@contextmanager
def modules_noted(
    model: nn.Module, enter: Callable[[str], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Call `enter` with the name of each module of `model` before it runs, and `leave` afterwards."""
    names = {id(module): name for name, module in model.named_modules()}

    def before(module: nn.Module, _inputs: object) -> None:
        if id(module) in names:
            enter(names[id(module)])

    def after(module: nn.Module, _inputs: object, _output: object) -> None:
        if id(module) in names:
            leave()

    handles = (
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plain(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        None if isinstance(arg, Tensor) else arg for arg in args if not isinstance(arg, list | tuple)
    )


def _is_cache(name: str, value: object) -> bool:
    """Whether it is a container of the user's, which a forward may fill."""
    return type(value) in (dict, list, set) and name not in vars(nn.Module())


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run the network in evaluation mode, all parameters learning; restore everything afterwards."""
    modules = list(model.modules())
    states = [
        (module, dict(vars(module)), dict(module._buffers), dict(module._parameters)) for module in modules
    ]
    holders = [value for module in modules for name, value in vars(module).items() if _is_cache(name, value)]
    contents = [(holder, holder.copy()) for holder in holders]
    values = [(tensor, tensor.detach().clone()) for tensor in model.buffers()]
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    random = torch.get_rng_state()
    try:
        model.eval()
        for parameter, _ in learns:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        torch.set_rng_state(random)
        for parameter, before in learns:
            parameter.requires_grad_(before)
        with torch.no_grad():
            for tensor, before in values:
                if not torch.equal(tensor, before):
                    tensor.copy_(before)
        for holder, content in contents:
            if holder != content:
                holder.clear()
                (holder.extend if isinstance(holder, list) else holder.update)(content)
        for module, state, buffers, parameters in states:
            vars(module).clear()
            vars(module).update(state)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)
