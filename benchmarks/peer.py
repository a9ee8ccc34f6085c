"""Torch-Pruning 1.6.1 applied as its documentation recommends; pip install torch-pruning==1.6.1

Its dependency graph comes from one forward pass with gradients. It cuts modules in place. Of a Darknet,
convolutions of heads are ignored layers, all others are ranked together (global pruning) by the gammas behind
them, and what else modules hold (slices of a route, overlaps of a shortcut) is left to its user: `refresh`
does that. Of any other network each group loses the same share by the L1 norms of its weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from utils.darknet.model import Darknet
from utils.darknet.modules import ConnectedBlock, ConvBlock, Route, Shortcut
from utils.darknet.sections import Route as RouteSection
from utils.errors import ToolkitError
from utils.pruning.costs import count_parameters

# How the gammas of a group are normalized: Torch-Pruning's default, and none as in Network Slimming.
NORMALIZERS = {"mean": "mean", "raw": None}


_Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class PeerResult(Generic[Network]):
    """What became of a network.

    Attributes:
        model: the pruned network, refreshed.
        inputs: layer name -> the numbers of its inputs, counted before the cut, that it still reads.
    """

    model: Network
    inputs: dict[str, Tensor]


def package() -> ModuleType:
    """Torch-Pruning.

    Raises:
        ToolkitError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError:
        fact = "is not installed, and this benchmark compares with it"
        raise ToolkitError("torch_pruning", fact, "pip install torch-pruning==1.6.1") from None
    return torch_pruning


def pruner(model: Darknet, image: Tensor, ratio: float, normalizer: str | None = "mean") -> Any:
    """Torch-Pruning's batch-norm pruner for `model`, its graph built; `step()` cuts in place.

    Args:
        model: the network to prune.
        image: (1, C, H, W) what the graph is traced with.
        ratio: share of channels to remove.
        normalizer: of the scores in a group.
    """
    tp = package()
    # Pairs, although its docstring says a dict: it fails to iterate over one.
    weights = [(m.weights, 1) for m in model.layers if isinstance(m, Shortcut) and m.weights is not None]
    return tp.pruner.BNScalePruner(
        model,
        image,
        importance=tp.importance.BNScaleImportance(normalizer=normalizer),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=list(_head_layers(model)),
        in_channel_groups={},  # its defaults are shared by all pruners, and written to
        out_channel_groups=dict(_channel_groups(model)),
        unwrapped_parameters=weights or None,
    )


def network_pruner(
    model: nn.Module, example: Tensor, ratio: float, align: int, ignored: Sequence[nn.Module]
) -> Any:
    """Torch-Pruning's magnitude pruner for any network, its graph built; `step()` cuts in place.

    Args:
        model: the network to prune.
        example: (1, ...) what the graph is traced with.
        ratio: share that each group of layers loses.
        align: widths are rounded to multiples of it.
        ignored: layers that stay: those of the outputs.
    """
    tp = package()
    return tp.pruner.MagnitudePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=ratio,
        round_to=align,
        ignored_layers=list(ignored),
        in_channel_groups={},
        out_channel_groups={},
    )


def pruned(
    model: Darknet, image: Tensor, ratio: float, normalizer: str | None = "mean"
) -> PeerResult[Darknet]:
    """A pruned copy of `model`."""
    copy = deepcopy(model)
    inputs = cut(copy, pruner(copy, image, ratio, normalizer))
    refresh(copy, image)
    return PeerResult(copy, inputs)


def cut(model: nn.Module, tool: Any) -> dict[str, Tensor]:
    """Let Torch-Pruning cut `model` in place; layer name -> what it still reads, as in `PeerResult`."""
    inputs = {name: torch.arange(_inputs(module)) for name, module in _layers(model)}
    names = {module: name for name, module in _layers(model)}
    for group in tool.step(interactive=True):
        for dependency, channels in group:
            name = names.get(dependency.target.module)
            if name is not None and tool.DG.is_in_channel_pruning_fn(dependency.handler):
                gone = torch.zeros(len(inputs[name]), dtype=torch.bool)
                gone[channels] = True
                inputs[name] = inputs[name][~gone]  # the next group counts from what is left
        group.prune()
    return inputs


def with_parameters(
    model: Darknet, image: Tensor, count: int, normalizer: str | None = "mean", steps: int = 14
) -> PeerResult[Darknet]:
    """The pruned copy whose number of parameters is nearest to `count`, by bisection on the ratio."""
    low, high, best = 0.0, 1.0, None
    for _ in range(steps):
        middle = (low + high) / 2
        found = pruned(model, image, middle, normalizer)
        size = count_parameters(found.model)
        if best is None or abs(size - count) < abs(count_parameters(best.model) - count):
            best = found
        low, high = (middle, high) if size > count else (low, middle)
    assert best is not None
    return best


def refresh(model: Darknet, image: Tensor) -> None:
    """Let routes and shortcuts take the widths that they now meet."""

    def route(module: Route, inputs: Sequence[Tensor]) -> None:
        section = model.network[indices[module]]
        assert isinstance(section, RouteSection)
        widths = [value.shape[1] // section.groups for value in inputs]
        module.parts = tuple((section.group_id * w, (section.group_id + 1) * w) for w in widths)

    def shortcut(module: Shortcut, inputs: Sequence[Tensor]) -> None:
        module.channels = tuple(value.shape[1] for value in inputs)
        module.overlaps = tuple(min(module.channels[0], count) for count in module.channels)

    indices = {module: index for index, module in enumerate(model.layers)}
    rules: dict[type[nn.Module], Callable[..., None]] = {Route: route, Shortcut: shortcut}
    handles = [m.register_forward_pre_hook(rules[type(m)]) for m in model.layers if type(m) in rules]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def zeroed(model: Network, inputs: Mapping[str, Tensor]) -> Iterator[Network]:
    """Let layers read 0 but at these of their inputs: what any correct cut of the others must equal."""

    def only(kept: Tensor) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
        def hook(_module: nn.Module, given: tuple[Tensor]) -> Tensor:
            return torch.zeros_like(given[0]).index_copy(1, kept, given[0].index_select(1, kept))

        return hook

    handles = [model.get_submodule(n).register_forward_pre_hook(only(kept)) for n, kept in inputs.items()]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module) -> Iterator[tuple[str, _Layer]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            yield name, module


def _inputs(layer: _Layer) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _head_layers(model: Darknet) -> Iterator[nn.Module]:
    """The layer of every section that a head reads."""
    for head in model.network.heads:
        block = model.layers[model.network.sources(head)[0]]
        if isinstance(block, ConvBlock | ConnectedBlock):
            yield block.conv if isinstance(block, ConvBlock) else block.linear


def _channel_groups(model: Darknet) -> Iterator[tuple[nn.Module, int]]:
    """Convolutions whose output a route cuts in equal parts, and how many."""
    for section in model.network.sections:
        if isinstance(section, RouteSection) and section.groups > 1:
            for block in (model.layers[source] for source in section.sources if source >= 0):
                if isinstance(block, ConvBlock):
                    yield block.conv, section.groups
