"""Any `nn.Module` as a subject of the engine, traced by torch.fx.

The traced graph is run once on an example, and the rule of each operation says what it does to the channels.
An operation without a rule pins the channels that it reads and is listed, so a result is never wrong.

Invariants: `narrowed` computes what the network computes with the removed channels at zero; channel counts in
the code (slices, views) are changed with the channels. A parameter is narrowed only together with everything
that reads it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import Target
from torch.utils import _pytree as pytree

from ...errors import PruningError
from ...profiling import evaluating
from ...pruning.channels import ChannelGraph, ChannelIds, UnitMask
from ...pruning.fold import Constant, constants
from ...pruning.layers import narrow
from ...pruning.subject import Block
from ...pruning.surgery import zero_removed
from .call import Call, Rule, Size, Trace, Value, attribute, pin_labels, unique_pairs
from .export import EXPORTED_RULES
from .rules.compute import DARKNET_RULES
from .rules.table import RULES
from .trace import running, said, traced


@dataclass(frozen=True)
class FxSubject:
    """A module to prune; see `pruning.subject.Subject`.

    Attributes:
        model: the traced module, which shares its submodules with the given one.
        graph: its channels.
        example: (2, ...) an input, twice.
        sizes: channel counts in its code.
        not_followed: a text for each operation that is not supported.
        pinned: names of layers that keep their width.
    """

    model: fx.GraphModule
    graph: ChannelGraph
    example: Tensor
    sizes: tuple[Size, ...] = ()
    not_followed: tuple[str, ...] = ()
    pinned: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Tensor,
        values: Mapping[str, Any] | None = None,
    ) -> Self:
        """Trace `model`.

        Args:
            model: takes a tensor.
            example: (B, ...) an input; small ones are faster. The first one is run twice in a batch, so that
                code that drops axes of size 1 keeps the batch axis.
            values: other arguments of its `forward`, fixed from here on.

        Raises:
            PruningError: it cannot be traced, or does not run on the example.
        """
        example = example[:1].repeat(2, *[1] * (example.ndim - 1))
        if not isinstance(model, nn.Module):
            raise PruningError(
                f"{model!r:.60}", "not a torch.nn.Module instance", "give a network that is built"
            )
        module = model if isinstance(model, fx.GraphModule) else graph_of(model, example, values or {})
        run = _LabelledRun(module)
        with running(type(model).__name__, example), evaluating(module), torch.no_grad():
            run.run(example)
        _settle_shared(module, run.trace)
        if not run.trace.layers:
            fact = "runs no convolution or linear layer"
            raise PruningError(f"{type(model).__name__}", fact, "give a network with layers to prune")
        graph, units = run.trace.tracer.finish(), run.trace.tracer.units()
        sizes = tuple(replace(size, ids=units[size.ids]) for size in run.trace.sizes)
        notes = tuple(dict.fromkeys(run.trace.not_followed))
        return cls(module, graph, example, sizes, notes)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """None: removing blocks would change the code."""
        return ()

    def pinning(self, names: Iterable[str]) -> Self:
        """The same subject with these layers pinned."""
        pinned = self.pinned | set(names)
        return replace(self, graph=self.graph.pinning(pinned, "excluded"), pinned=pinned)

    def constants(self, alive: UnitMask, blocks: Sequence[Block]) -> dict[str, Constant]:
        """Layer name -> the constant at its input, see `fold.constants`."""
        return constants(self.model, self.graph, alive, blocks, self.example)

    def zeroed(self, keep: UnitMask, blocks: Sequence[Block]) -> Self:
        """The same network with removed channels and blocks multiplied by 0, with hooks in `model`."""
        return self.with_model(zero_removed(self.model, self.graph, keep, blocks))

    def with_model(self, model: nn.Module) -> Self:
        """The same structure with the tensors of another model."""
        return replace(self, model=cast(fx.GraphModule, model))

    def narrowed(self, keep: UnitMask) -> Self:
        """A compact copy with the kept channels, retraced."""
        model = cast(fx.GraphModule, narrow(self.model, self.graph, keep))
        nodes = {node.name: node for node in model.graph.nodes}
        for size in self.sizes:
            _set_size(nodes[size.node], size.path, int(keep[size.ids].sum()))
        if self.sizes:
            model.recompile()
        try:
            compact = type(self).of(model, self.example).pinning(self.pinned)
        except PruningError as error:
            fact = f"the pruned network does not run ({said(error.__cause__ or error)})"
            remedy = "exclude the layers around code with channel counts, and report a bug"
            raise PruningError(f"{type(self.model).__name__}", fact, remedy) from error
        _require_same_wiring(self.graph, keep, compact.graph)
        return compact

    def shortened(self, blocks: Iterable[Block]) -> Self:
        """The subject itself, as it has no blocks."""
        del blocks
        return self


def _require_same_wiring(graph: ChannelGraph, keep: UnitMask, traced: ChannelGraph) -> None:
    """Check that every layer reads and writes exactly the kept channels, in order.

    Raises:
        PruningError: a rule does not match what the code does with channels.
    """
    pairs = []
    for name, layer in graph.layers.items():
        found = traced.layers[name]
        for old, new in ((layer.inputs, found.inputs), (layer.outputs, found.outputs)):
            kept = old[keep[old]]
            if len(kept) != len(new):
                raise PruningError(name, f"has {len(new)} channels instead of {len(kept)}", "exclude it")
            pairs.append(np.stack((kept, new)))
    old, new = np.concatenate(pairs, axis=1)
    both = unique_pairs(old, new)
    # A unit may split, or several may merge: a group of one channel is depthwise, one of all channels is not.
    many = [np.isin(row, np.flatnonzero(np.bincount(row) > 1)) for row in both]
    if (many[0] & many[1]).any():
        fact = "the remaining channels would be read in another order"
        remedy = "exclude the layers around shuffles and slices, and report a bug"
        raise PruningError("traced network", fact, remedy)


# results of operations that contain no tensor
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device, torch.layout)
_RULES = {**RULES, **EXPORTED_RULES, **DARKNET_RULES}


def graph_of(model: nn.Module, example: Tensor, values: Mapping[str, Any]) -> fx.GraphModule:
    """The code of `model` as a graph for the rules; arguments and errors as in `traced`."""
    return traced(model, example, values, lambda module: _rule_of(module) is not None)


def _rule_of(module: nn.Module) -> Rule | None:
    """The rule of its type, or of a base class of torch that it does not change except in construction."""
    if "forward" in vars(module):  # the user's own
        return None
    lineage = type(module).__mro__
    place = next((number for number, kind in enumerate(lineage) if kind in _RULES), None)
    if place is None:
        return None
    base = lineage[place]
    changed = {name for kind in lineage[:place] for name in vars(kind) if hasattr(base, name)}
    harmless = {"extra_repr", "reset_parameters"} | {name for name in changed if name.startswith("__")}
    return None if changed - harmless else _RULES[base]


class _LabelledRun(fx.Interpreter):
    """The example run: computes the tensors, and beside them their labels."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.trace = Trace()
        self._node: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self._node = n
        return super().run_node(n)

    def placeholder(self, target: Target, args: Any, kwargs: Any) -> Any:
        found = super().placeholder(target, args, kwargs)
        return Value(found) if isinstance(found, Tensor) else found

    def get_attr(self, target: Target, args: Any, kwargs: Any) -> Any:
        found = super().get_attr(target, args, kwargs)
        return Value(found, name=str(target)) if isinstance(found, Tensor) else found

    def call_module(self, target: Target, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(str(target))
        run = super().call_module
        return self._call(_rule_of(module), target, args, kwargs, run, str(target), module)

    def call_function(self, target: Target, args: Any, kwargs: Any) -> Any:
        return self._call(_RULES.get(target), target, args, kwargs, super().call_function)

    def call_method(self, target: Target, args: Any, kwargs: Any) -> Any:
        return self._call(_RULES.get(target), target, args, kwargs, super().call_method)

    def output(self, target: Target, args: Any, kwargs: Any) -> Any:
        for value in pytree.tree_leaves(args):
            if isinstance(value, Value):
                pin_labels(self.trace.tracer, value, "an output of the network")
        return super().output(target, args, kwargs)

    def _call(
        self,
        rule: Callable[[Call], Any] | None,
        target: Target,
        args: Any,
        kwargs: Any,
        run: Callable[[Target, Any, Any], Any],
        name: str = "",
        module: nn.Module | None = None,
    ) -> Any:
        def on(pick: Callable[[Value], Tensor]) -> Any:
            given = pytree.tree_map(
                lambda leaf: pick(leaf) if isinstance(leaf, Value) else leaf, (args, kwargs)
            )
            return run(target, *given)

        result = on(lambda value: value.tensor)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not tensors and all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves(result)):
            return result  # such as a size
        assert self._node is not None
        call = Call(self.trace, self._node, args, kwargs, on, result, name, module)
        labels = rule(call) if rule else call.refuse()
        if isinstance(result, Tensor):
            return Value(result, labels)
        if labels is None:
            return pytree.tree_map(lambda leaf: Value(leaf) if isinstance(leaf, Tensor) else leaf, result)
        return type(result)(map(Value, result, labels))


def _settle_shared(model: fx.GraphModule, trace: Trace) -> None:
    """Tie channels of layers and norms that share a parameter; pin and report those that other code reads.

    Such as the weights of a layer in `functional.linear(x, self.encoder.weight.t())`, or of an embedding.
    """
    channels: dict[int, ChannelIds] = {}
    for tensor, ids in _narrowed_tensors(model, trace):
        known = channels.setdefault(id(tensor), ids)
        if known is not ids:
            trace.tracer.tie(known, ids, "joint")
    for tensor, text in _other_reads(model, trace):
        if id(tensor) in channels:
            trace.tracer.pin(channels[id(tensor)], text)
            trace.not_followed.append(text)


def _narrowed_tensors(model: nn.Module, trace: Trace) -> Iterator[tuple[Tensor, ChannelIds]]:
    """Each tensor that may be narrowed, and its channels."""
    for name, (inputs, outputs) in trace.layers.items():
        for leaf, tensor in _tensors(attribute(model, name)):
            yield tensor, outputs if leaf == "bias" else np.concatenate((inputs, outputs))
    for name, followed in trace.followers.items():
        for _, tensor in _tensors(attribute(model, name)):
            yield tensor, followed


def _other_reads(model: fx.GraphModule, trace: Trace) -> Iterator[tuple[Tensor, str]]:
    """Tensors that other code or modules read, which are not narrowed; a text for each."""
    for node in model.graph.nodes:
        name = str(node.target)
        if node.op == "get_attr":
            readers = [user.name for user in node.users if user.name not in trace.followed]
            for _, tensor in _tensors(attribute(model, name)) if readers else ():
                yield tensor, f"{name} is also read by {readers[0]}"
        elif node.op == "call_module" and name not in trace.layers and name not in trace.followers:
            for leaf, tensor in model.get_submodule(name).named_parameters():
                if f"{name}.{leaf}" not in trace.followers:
                    yield tensor, f"{name}.{leaf} is shared with a layer that could be narrowed"


def _tensors(found: nn.Module | Tensor) -> list[tuple[str, Tensor]]:
    if isinstance(found, Tensor):
        return [("", found)]
    return [*found.named_parameters(recurse=False), *found.named_buffers(recurse=False)]


def _set_size(node: fx.Node, path: tuple[int | str, ...], value: int) -> None:
    """Replace one number in the arguments of a node."""

    def changed(found: Any, rest: tuple[int | str, ...]) -> Any:
        if not rest:
            return value
        step, *others = rest
        if isinstance(found, slice):
            bounds = {name: getattr(found, name) for name in ("start", "stop", "step")}
            return slice(*(bounds | {str(step): changed(bounds[str(step)], tuple(others))}).values())
        items = list(found)
        items[cast(int, step)] = changed(items[cast(int, step)], tuple(others))
        return tuple(items) if isinstance(found, tuple) else items

    if isinstance(path[0], str):
        node.kwargs = {**node.kwargs, path[0]: changed(node.kwargs[path[0]], path[1:])}
    else:
        node.args = changed(node.args, path)
