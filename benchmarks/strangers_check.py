"""What became of a stranger's network, found out without the code that pruned it.

`independent_difference` compares the pruned network with the original whose removed channels are zero. Which
ones these are is read off the weights: random numbers differ, so each column of a pruned layer is the one of
the original with its numbers. Of what `slim` knows, only the masks of the plan are used: which rows are left.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.frontends.module.inputs import Inputs
from utils.pruning.channels import UnitMask
from utils.pruning.layers import tensors_in

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_OTHERS = (nn.MultiheadAttention, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class UnmatchedError(Exception):
    """A weight of the pruned network is not one of the original, so nothing can be compared."""


def independent_difference(
    model: nn.Module, pruned: nn.Module, kept: Mapping[str, UnitMask], inputs: Inputs
) -> float:
    """Largest difference between both networks, float64, over the largest output.

    Args:
        model: the original; changed.
        pruned: without the constants of removed channels (`folding="off"`); changed.
        kept: layer name -> (out,) mask of its rows.
        inputs: of both.

    Raises:
        UnmatchedError: the pruned weights are others than those of the original.
    """
    modules, handles = dict(model.named_modules()), []
    for name, small in pruned.named_modules():
        whole = modules.get(name)
        if isinstance(whole, _OTHERS) and name in kept:
            raise UnmatchedError(f"{name} is a {type(whole).__name__}")
        if not isinstance(whole, (nn.Linear, *_CONVOLUTIONS)) or not isinstance(small, type(whole)):
            continue
        rows = (
            torch.from_numpy(kept[name]) if name in kept else torch.ones(len(whole.weight), dtype=torch.bool)
        )
        axis = -1 if isinstance(whole, nn.Linear) else 1
        read = _columns(name, whole, small, rows)
        if read is not None and not read.all():
            handles.append(whole.register_forward_pre_hook(_zeroing(read, axis)))
        with torch.no_grad():
            whole.weight[~rows] = 0
            if whole.bias is not None:
                whole.bias[~rows] = 0
    inputs = inputs.random(dtype=torch.float64)
    with torch.no_grad():
        one, other = (tensors_in(inputs(each.double().eval())) for each in (pruned, model))
    for handle in handles:
        handle.remove()
    scale = max(float(each.abs().max()) for each in other if each.numel())
    pairs = zip(one, other, strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel()) / scale


def _columns(name: str, whole: nn.Module, small: nn.Module, rows: Tensor) -> Tensor | None:
    """(in,) whether each input is still read; None for a depthwise convolution."""
    groups, left = getattr(whole, "groups", 1), getattr(small, "groups", 1)
    weight, cut = whole.weight, small.weight
    assert isinstance(weight, Tensor)
    assert isinstance(cut, Tensor)
    weight, cut = weight.detach()[rows], cut.detach()
    if groups > 1 and weight.shape[1] == 1:
        return None
    if groups != left:
        raise UnmatchedError(f"{name} has {left} of {groups} groups")
    if len(weight) != len(cut):
        raise UnmatchedError(f"{name} has {len(cut)} rows, the plan {len(weight)}")
    found = []
    counts = rows.view(groups, -1).sum(1).tolist()
    for one, other in zip(weight.split(counts), cut.split(counts), strict=True):
        marks, left_marks = (each.movedim(1, 0).reshape(each.shape[1], -1) for each in (one, other))
        numbers = {tuple(mark[:8].tolist()): place for place, mark in enumerate(marks)}
        read = torch.zeros(len(marks), dtype=torch.bool)
        for mark in left_marks:
            place = numbers.get(tuple(mark[:8].tolist()))
            if place is None or not torch.equal(marks[place], mark):
                raise UnmatchedError(f"{name} has other weights")
            read[place] = True
        found.append(read)
    return torch.cat(found)


def _zeroing(read: Tensor, axis: int) -> Callable[..., Any]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        shape = [-1 if place == axis % inputs[0].ndim else 1 for place in range(inputs[0].ndim)]
        return (inputs[0] * read.to(inputs[0]).view(shape), *inputs[1:])

    return hook


def onnx_difference(model: nn.Module, inputs: Inputs, path: str) -> float:
    """Export to ONNX, run by onnxruntime, and the largest difference over the largest output.

    Raises:
        Exception: the exporter or the runtime does not take the network.
    """
    import onnxruntime

    model.eval()
    with torch.no_grad():
        expected = [each for each in tensors_in(inputs(model)) if each.is_floating_point()]
        torch.onnx.export(model, inputs.args, path, kwargs=dict(inputs.kwargs), dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {name: each.numpy() for name, each in zip(names, inputs.tensors, strict=True)}
    found = [torch.from_numpy(each) for each in session.run(None, given)]
    found = [each for each in found if each.is_floating_point()]
    pairs = [(one, other) for one in expected for other in found if one.shape == other.shape]
    if len(found) < len(expected) or not pairs:
        raise ValueError(f"{len(found)} outputs of {len(expected)}")
    scale = max(float(one.abs().max()) for one in expected) or 1.0
    return (
        max(
            min(float((one - other).abs().max()) for first, other in pairs if first is one)
            for one in expected
        )
        / scale
    )
