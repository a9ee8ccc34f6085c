"""What a user gives: the network, its weights, and arguments of its `forward`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...errors import PruningError

# prefixes of names in DataParallel and DistributedDataParallel, and of compiled networks
_WRAPPED = ("module.", "_orig_mod.")
_ARGUMENT = "example_inputs"
_MOST_STORED = 2**16  # whole numbers of one tensor in a plan; of larger ones only the shape
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Inputs:
    """Arguments of a `forward`.

    Tensors whose first axis is as long as that of the first tensor hold a batch along it; all others are
    the same for every batch.

    Attributes:
        args: positional ones: tensors, numbers, and lists, tuples and dicts of them.
        kwargs: keyword ones, likewise.
        fixed: other keyword ones, which are never changed.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, example: Any, fixed: Mapping[str, Any] | None = None) -> "Inputs":
        """The inputs that a user gives: a tensor, a sequence of positional or a dict of keyword arguments.

        Raises:
            PruningError: they hold no tensor with a batch, or something that is not plain.
        """
        fixed = fixed or {}
        if isinstance(example, Inputs):
            return replace(example, fixed={**example.fixed, **fixed})
        if isinstance(example, Mapping):
            found = cls((), {str(name): value for name, value in example.items()}, fixed)
        elif isinstance(example, Sequence) and not isinstance(example, str):
            found = cls(tuple(example), {}, fixed)
        else:
            found = cls((example,), {}, fixed)
        for leaf in pytree.tree_leaves((found.args, found.kwargs)):
            if not isinstance(leaf, (Tensor, *_PLAIN)):
                fact = f"has a {type(leaf).__name__}, expected a tensor"
                raise PruningError(_ARGUMENT, fact, "give tensors, or lists and dicts of them")
        if not found.tensors:
            kinds = ", ".join(type(each).__name__ for each in found.args) or "nothing"
            remedy = "give a tensor, a tuple of arguments of forward, or a dict of keyword arguments"
            raise PruningError(_ARGUMENT, f"got {kinds}, expected one tensor", remedy)
        first = found.first
        if any(each.is_meta or each.layout != torch.strided for each in found.tensors):
            fact = "has a tensor that is sparse or on the device meta"
            raise PruningError(_ARGUMENT, fact, "give ordinary tensors")
        if not first.ndim or not len(first):
            fact = f"shape {tuple(first.shape)} has no batch"
            raise PruningError(_ARGUMENT, fact, "give a batch of one, with the batch as the first axis")
        if both := sorted(found.kwargs.keys() & fixed.keys()):
            raise PruningError(_ARGUMENT, f"{both[0]} is in values too", "give each argument once")
        return found

    def __call__(self, model: nn.Module) -> Any:
        """What `model` returns for a copy of them, as it may change what it gets."""
        return self.mapped(Tensor.clone).given_to(model)

    def given_to(self, model: nn.Module) -> Any:
        """What `model` returns for them."""
        return model(*self.args, **self.kwargs, **self.fixed)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors but the fixed ones, in order."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def first(self) -> Tensor:
        """(B, ...) the first tensor."""
        return self.tensors[0]

    @property
    def shapes(self) -> str:
        """Shapes of all tensors, to print."""
        return ", ".join("x".join(map(str, each.shape)) or "no axes" for each in self.tensors)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same with each tensor changed."""

        def of(leaf: Any) -> Any:
            return change(leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = pytree.tree_map(of, (self.args, dict(self.kwargs)))
        return replace(self, args=args, kwargs=kwargs)

    def repeated(self, batch: int) -> "Inputs":
        """The first input, `batch` times."""
        length = len(self.first)

        def of(tensor: Tensor) -> Tensor:
            if not tensor.ndim or len(tensor) != length:
                return tensor
            return tensor[:1].repeat(batch, *[1] * (tensor.ndim - 1))

        return self.mapped(of)

    def random(
        self,
        size: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        least: float = 0.0,
    ) -> "Inputs":
        """Random numbers of a seed in floating tensors and images of bytes; other whole numbers stay.

        Args:
            least: floating numbers are from this one to 1.
            size: other sides (H, W, ...) of the first tensor, and of those that have its sides.
            dtype: of the numbers; each tensor's own if None.
        """
        generator, sides = torch.Generator().manual_seed(0), self.first.shape[2:]

        def of(tensor: Tensor) -> Tensor:
            if tensor.dtype == torch.uint8:
                return torch.randint(0, 256, tensor.shape, generator=generator).to(tensor)
            if not tensor.is_floating_point():
                return tensor
            is_sized = size is not None and tensor.ndim > 2 and tensor.shape[2:] == sides
            shape = (*tensor.shape[:2], *size) if size is not None and is_sized else tensor.shape
            found = torch.rand(shape, generator=generator, dtype=dtype or torch.float32)
            found = found if not least else least + (1 - least) * found
            return found.to(tensor.device, dtype or tensor.dtype)

        return self.mapped(of)

    def several(self) -> Iterator["Inputs"]:
        """Random inputs, float64, in batches of 2, 1 and 3, then images of two other sizes.

        The first are from 0 to 1, the other batches from -1 to 1.
        """
        for batch, least in ((2, 0.0), (1, -1.0), (3, -1.0)):
            yield self.repeated(batch).random(dtype=torch.float64, least=least)
        sides = self.first.shape[2:]
        if len(sides) == 2 and self.first.is_floating_point():
            height, width = sides
            smaller = (max(32, height // 64 * 32), max(32, width // 64 * 32))
            for size in (smaller, (height + 32, width + 64)):
                if size != (height, width):
                    yield self.repeated(2).random(size, torch.float64)

    def limits(self) -> list[str]:
        """A sentence if whole numbers are all the same, so that a comparison on them shows little."""
        wholes = [each for each in self.tensors if each.dtype in (torch.int32, torch.int64)]
        if not any(each.numel() > 2 and bool((each == each.reshape(-1)[0]).all()) for each in wholes):
            return []
        return ["the whole numbers of the example are all the same, on which a comparison shows little"]

    def to_json(self) -> dict[str, Any]:
        """Plain values of one input: of floating tensors the shape alone."""
        one = self.repeated(1)
        return {"args": _plain(one.args), "kwargs": _plain(dict(one.kwargs))}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Inputs":
        """The inputs of what `to_json` returned, with zeros in floating tensors."""
        return cls(tuple(_valued(plain["args"])), _valued(plain["kwargs"]))

    def to(self, like: Tensor) -> "Inputs":
        """On the device of a tensor, and floating ones of its type."""
        return self.mapped(lambda each: each.to(like if each.is_floating_point() else like.device))


def unwrapped(model: nn.Module) -> nn.Module:
    """The network in a parallel wrapper or a compiled one, or itself.

    Raises:
        PruningError: it is a ScriptModule, whose code cannot be watched.
    """
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            fact = "is a TorchScript module, whose layers cannot be changed"
            raise PruningError(type(model).__name__, fact, "give the nn.Module that it was made from")
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly, also one that a parallel wrapper or a compiled network saved.

    Raises:
        PruningError: it is of another network (with the differences), or not a state dict.
    """
    if not isinstance(state, Mapping):
        raise PruningError("state", f"is a {type(state).__name__}", "give what state_dict() returned")
    for prefix in (*_WRAPPED, *_WRAPPED):  # one may be inside of the other
        is_wrapped = all(str(name).startswith(prefix) for name in state)
        if is_wrapped and state.keys() != model.state_dict().keys():
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    try:
        model.load_state_dict(state, strict=True)  # as given: modules look at its metadata
    except RuntimeError as error:
        fact = " ".join(str(error).split())[:300]
        raise PruningError("state", fact, "narrow a fresh network with its plan first: apply_plan") from error


def require_sound(model: nn.Module) -> None:
    """Refuse a network whose numbers cannot be pruned, by the name of the first tensor or part at fault."""
    if not isinstance(cast(object, model), nn.Module):
        raise PruningError(f"{model!r:.60}", "not a torch.nn.Module instance", "give a network that is built")
    for name, module in model.named_modules():
        if "quantized" in type(module).__module__.split("."):
            fact = f"is quantized ({type(module).__name__}), and has no weights to cut"
            raise PruningError(name or type(model).__name__, fact, "prune the float network, then quantize")
        if isinstance(module, torch.jit.ScriptModule):
            fact = "is a TorchScript module, whose layers cannot be changed"
            raise PruningError(name, fact, "give the nn.Module that it was made from")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise PruningError(name, "has no shape yet", "run the network once on an input")
        if tensor.is_meta:
            raise PruningError(name, "is on the device meta, without numbers", "load the weights first")
        # other buffers may be masks of minus infinity
        counts = isinstance(tensor, nn.Parameter) or name.endswith(("running_mean", "running_var"))
        if counts and tensor.is_floating_point() and not tensor.isfinite().all():
            raise PruningError(name, "has NaN or infinite values", "give an earlier checkpoint")


def is_one_tensor(inputs: Inputs) -> bool:
    """Whether there is nothing but one positional tensor, and what is fixed."""
    return len(inputs.args) == 1 and isinstance(inputs.args[0], Tensor) and not inputs.kwargs


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        found: dict[str, Any] = {"shape": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}
        if not value.is_floating_point() and not value.is_complex() and value.numel() <= _MOST_STORED:
            found["numbers"] = value.reshape(-1).tolist()
        return {"tensor": found}
    if isinstance(value, dict):
        return {"dict": [[name, _plain(each)] for name, each in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_plain(each) for each in value]}
    return value


def _valued(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        shape, numbers = content["shape"], content.get("numbers")
        dtype = getattr(torch, content["type"])
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"unknown type {content['type']}")
        if numbers is None:
            return torch.zeros(shape, dtype=dtype)
        if len(numbers) != math.prod(shape):
            raise ValueError(f"{len(numbers)} numbers for the shape {shape}")
        return torch.tensor(numbers, dtype=dtype).view(shape)
    if kind == "dict":
        return {name: _valued(each) for name, each in content}
    return {"list": list, "tuple": tuple}[kind](_valued(each) for each in content)
