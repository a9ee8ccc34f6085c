"""Tracing by torch.export, for modules that torch.fx cannot trace.

torch.export runs the code instead of reading it, so everything that depends on sizes only is fixed: loops,
branches, and the input size except the batch. It records ATen operations. Those of a torch module become a
call of that module again, so that its weights are known by name; the others use the rules of the functions
that users write.
"""

import inspect
import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .call import Rule
from .rules.compute import added, channelwise, combined, multiplied, reduced, same, softmax
from .rules.shape import chunk, expanded_as, moved, pad, pixels, reshaped, split_sizes

_aten = torch.ops.aten
_END = 2**63 - 1  # ATen's open end of a slice

_SAME = (
    "relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "silu_", "mish", "sigmoid", "tanh",
    "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "softplus", "clamp", "clamp_", "abs",
    "exp", "sqrt", "neg", "clone", "contiguous", "dropout", "detach", "alias",
)  # fmt: skip
_CHANNELWISE = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
_MOVED = (
    "cat", "stack", "permute", "squeeze", "unsqueeze", "flip", "repeat", "t", "pixel_unshuffle",
    "view_as",
)  # fmt: skip

EXPORTED_RULES: Mapping[Any, Rule] = MappingProxyType(
    {getattr(_aten, name).default: same for name in _SAME}
    | {getattr(_aten, name).default: channelwise for name in _CHANNELWISE}
    | {getattr(_aten, name).default: moved for name in _MOVED}
    | dict.fromkeys((_aten.pow.Tensor_Scalar, _aten.to.dtype, _aten.to.dtype_layout), same)
    | dict.fromkeys((_aten.upsample_bilinear2d.vec, _aten.upsample_nearest2d.vec), channelwise)
    | dict.fromkeys((_aten.transpose.int, _aten.flatten.using_ints, _aten.squeeze.dim), moved)
    | dict.fromkeys((_aten.add.Tensor, _aten.sub.Tensor, _aten.add_.Tensor, _aten.sub_.Tensor), added)
    | dict.fromkeys((_aten.mul.Tensor, _aten.mul_.Tensor), multiplied)
    | dict.fromkeys((_aten.div.Tensor, _aten.maximum.default, _aten.minimum.default), combined)
    | dict.fromkeys((_aten.mean.dim, _aten.sum.dim_IntList, _aten.amax.default, _aten.amin.default), reduced)
    | dict.fromkeys((_aten.softmax.int, _aten.log_softmax.int), softmax)
    | dict.fromkeys((_aten.view.default, _aten.reshape.default, _aten.expand.default), reshaped)
    | dict.fromkeys((_aten.split.Tensor, _aten.split_with_sizes.default), split_sizes)
    | {_aten.chunk.default: chunk, _aten.pad.default: pad, _aten.pixel_shuffle.default: pixels}
    | {_aten.expand_as.default: expanded_as}
)


def exported(
    model: nn.Module, example: Tensor, values: Mapping[str, Any], is_leaf: Callable[[nn.Module], bool]
) -> fx.GraphModule:
    """The graph of `model` for inputs of the size of `example`; it shares the modules of `model`.

    Args:
        model: takes a tensor; in evaluation mode.
        example: (B, ...) an input, B above 1: torch.export fixes a batch of 1.
        values: other arguments of its `forward`, fixed.
        is_leaf: whether a module is one operation of the graph.

    Raises:
        Exception: any that torch.export raises on code that it cannot trace.
    """
    first = next(iter(inspect.signature(model.forward).parameters))
    sizes: dict[str, Any] = {first: {0: torch.export.Dim.AUTO}, **dict.fromkeys(values)}
    with _quiet():
        program = torch.export.export(model, (example,), dict(values), dynamic_shapes=sizes)
    found, graph = program.module(), fx.Graph()
    outputs: Any = graph.graph_copy(found.graph, {})
    graph.output(pytree.tree_unflatten(outputs, program.call_spec.out_spec))
    first_names = {module: name for name, module in model.named_modules()}
    names = {path: first_names[module] for path, module in model.named_modules(remove_duplicate=False)}
    calls = Counter(_call_of(node)[0] for node in graph.nodes if node.op == "call_function")
    for node in list(graph.nodes):
        call, path = _call_of(node)
        owner = model.get_submodule(names[path]) if path in names else None
        whole = owner is not None and calls[call] == 1 and _is_call(node)
        leaf = owner is not None and (is_leaf(owner) or _is_of_torch(owner))
        _rewrite(node, names[path] if whole and leaf else None)
    _sweep(graph)
    owned = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    return fx.GraphModule({name: _named(name, model, found) for name in owned}, graph, type(model).__name__)


def _call_of(node: fx.Node) -> tuple[str, str]:
    """The module call that an operation belongs to, and the module's name."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    key, (path, _) = next(reversed(stack.items()))
    return key, path


def _is_call(node: fx.Node) -> bool:
    """Whether an operation can be its module's call: one tensor in, as first argument, one tensor out."""
    read = [source for source in node.all_input_nodes if source.op != "get_attr"]
    return node.args[:1] == tuple(read) and isinstance(node.meta.get("val"), Tensor)


def _rewrite(node: fx.Node, module: str | None) -> None:
    """Replace an ATen operation by the call of its module; slice and select by indexing."""
    if node.op != "call_function":
        return
    with node.graph.inserting_before(node):
        if module is not None:
            new = node.graph.call_module(module, node.args[:1])
        elif node.target in (_aten.slice.Tensor, _aten.select.int):
            new = node.graph.call_function(operator.getitem, (node.args[0], _index(node)))
        else:
            return
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules") and not list(module.children())


def _index(node: fx.Node) -> tuple[Any, ...]:
    """The index expression of `slice(x, axis, start, end, step)` or `select(x, axis, index)`."""
    source, axis, *bounds = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(axis, int)
    part: Any = bounds[0]
    if node.target is _aten.slice.Tensor:
        missing: list[Any] = [None, None, 1]
        start, end, step = bounds + missing[len(bounds) :]
        part = slice(start or None, None if end == _END else end, None if step == 1 else step)
    return (*[slice(None)] * (axis % source.meta["val"].ndim), part)


def _sweep(graph: fx.Graph) -> None:
    """Remove unread nodes, fixed arguments included, and the size checks."""
    for node in reversed(graph.nodes):
        first = node.op == "placeholder" and node.prev.op != "placeholder"
        unread = not node.users and node.op in ("get_attr", "placeholder") and not first
        if unread or (node.op == "call_module" and node.target == "_guards_fn"):
            graph.erase_node(node)


def _named(name: str, *owners: nn.Module) -> Any:
    """A module, parameter or buffer of the first owner that has it."""
    missing = object()
    for owner in owners:
        found: Any = owner
        for part in name.split("."):
            found = getattr(found, part, missing)
        if found is not missing:
            return found
    raise AttributeError(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's own messages about code that it cannot export."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
