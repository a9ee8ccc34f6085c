"""Tracing: from a module to a graph of its code, by torch.fx, with torch.export as fallback.

Invariant: the graph computes what the module computes, compared on a random input.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import PruningError
from ...profiling import evaluating
from ...pruning.equality import relative_difference, tensors_in
from .export import exported

# relative and absolute tolerance; both run the same operations
_EQUAL = 1e-5
# key in a graph's `meta`: the tracer used
WAY = "way"


def traced(
    model: nn.Module, example: Tensor, values: Mapping[str, Any], is_leaf: Callable[[nn.Module], bool]
) -> fx.GraphModule:
    """The code of `model` as a graph; its modules are those of `model`.

    Args:
        model: takes a tensor.
        example: (B, ...) an input, B above 1.
        values: other arguments of its `forward`, fixed.
        is_leaf: whether a module is one operation of the graph, not traced into.

    Raises:
        PruningError: it does not run on the example, or no tracer can trace it.
    """
    images = example
    if example.is_floating_point():
        images = torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    with evaluating(model), torch.no_grad():
        with running(type(model).__name__, images):
            expected = tensors_in(model(images, **values))
        ways = {
            "torch.fx": lambda: symbolic(model, values, is_leaf),
            "torch.export": lambda: exported(model, example, values, is_leaf),
        }
        facts = []
        for name, way in ways.items():
            try:
                found = _tried(name, way, images, expected)
                found.meta[WAY] = name
                return found
            except PruningError as error:
                facts.append(str(error))
    remedy = "avoid branches on tensors in forward, or fix its other arguments with values={...}"
    raise PruningError(f"{type(model).__name__}", f"{', '.join(facts)}", remedy)


def _tried(
    name: str, way: Callable[[], fx.GraphModule], images: Tensor, expected: list[Tensor]
) -> fx.GraphModule:
    try:
        graph = way()
        with evaluating(graph):
            found = tensors_in(graph(images))
    except Exception as error:  # whatever the user's own code raises on a stand-in for a tensor
        raise PruningError(name, f"cannot trace it ({said(error)})") from error
    if not _close(found, expected):
        difference = relative_difference(found, expected)
        fact = f"the traced graph's outputs differ from the module's by {difference:.1e}"
        raise PruningError(name, fact)
    return graph


def _close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether outputs agree; NaN equals NaN, as in a network without weights."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return False
    return all(
        torch.allclose(one, other, _EQUAL, _EQUAL, equal_nan=True)
        for one, other in zip(found, expected, strict=True)
    )


@contextmanager
def running(name: str, example: Tensor) -> Iterator[None]:
    """Turn any exception of network `name` on `example` into a PruningError."""
    try:
        yield
    except Exception as error:  # the user's own code may raise anything
        shape = "x".join(map(str, example.shape))
        fact = f"does not run on a batch of shape {shape}"
        raise PruningError(name, f"{fact} ({said(error)})", "give an input that it accepts") from error


def said(error: BaseException) -> str:
    """Type and first line of an exception."""
    text = " ".join((str(error).strip().splitlines() or [""])[0].split())
    return f"{type(error).__name__}: {text[:200]}"


class _Tracer(fx.Tracer):
    def __init__(self, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_leaf = is_leaf

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_leaf(m) or super().is_leaf_module(m, module_qualified_name)


def symbolic(
    model: nn.Module, values: Mapping[str, Any], is_leaf: Callable[[nn.Module], bool]
) -> fx.GraphModule:
    """The graph by torch.fx, which reads the code; arguments as in `traced`."""
    before = set(vars(model))
    graph = _Tracer(is_leaf).trace(model, concrete_args=dict(values))
    fixed: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" and any(node.name.startswith(name) for name in values):
            fixed.add(node)
    # Fixed arguments are constants now: remove their checks. Other unread operations may have effects.
    for node in reversed(graph.nodes):
        about_fixed = node in fixed or not fixed.isdisjoint(node.all_input_nodes)
        if node.target is torch._assert or (not node.users and about_fixed):
            graph.erase_node(node)
    found = fx.GraphModule(model, graph, type(model).__name__)
    for name in set(vars(model)) - before:  # tensors created by the code, which the tracer sets on the model
        delattr(model, name)
    return found
