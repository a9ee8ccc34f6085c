"""Numbers of channels that code and modules hold, set to those of the narrowed network.

The narrowed module runs once more on the example. Where an operation is given a count that does not fit the
labels, the run goes on with the right one, so one run finds all misfits. Then the attribute of the running
module, or of one around it, that has the wrong value is set; a count that no attribute holds is a misfit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from ...errors import PruningError
from ...pruning.channels import ChannelIds, UnitMask
from ...pruning.layers import BATCH_NORMS, INSTANCE_NORMS
from .inputs import Inputs
from .run import is_pointwise
from .running import Beside, OtherStepsError, modules_noted, running
from .steps import SCALES, Step
from .trace import Way


class MisfitError(PruningError):
    """Code holds a number of channels that cannot be changed.

    Attributes:
        misfits: the numbers.
        failed_at: number of the operation at which the narrowed network stops, if no number is at fault.
        keep: (units,) what was kept.
    """

    misfits: "tuple[Misfit, ...]" = ()
    failed_at: int | None = None
    keep: "UnitMask | None" = None


@dataclass(frozen=True)
class Misfit:
    """A wrong count in a run of the narrowed network.

    Attributes:
        step, path: the operation, and the place in its arguments.
        given, wanted: the count of the code, and the one that fits.
        where: names of the running modules, the innermost last.
        ids: what it counts.
    """

    step: int
    path: tuple[int, ...]
    given: int
    wanted: int
    where: tuple[str, ...]
    ids: ChannelIds


Scale = tuple[ChannelIds, float]  # channels whose products are to be multiplied by a number
Place = tuple[int, tuple[int, ...]]  # number of an operation, place in its arguments
_aten = torch.ops.aten
_END = 2**63 - 1  # what a slice to the end has
_QUOTIENTS = frozenset({_aten.div, _aten.div_})
# Whether these run depends on sizes and on what autograd saves; the counts are never theirs.
_FREE = frozenset({_aten.detach, _aten.clone, _aten.as_strided_, _aten._to_copy, _aten.contiguous})


def counts_matter(func: OpOverload) -> bool:
    """Whether a run of the narrowed network has to do this operation."""
    return func.overloadpacket not in _FREE


class _Fitting(Beside):
    """Runs the operations of a trace with the counts that fit."""

    def __init__(self, steps: Sequence[Step], keep: UnitMask) -> None:
        super().__init__(steps, counts_matter)
        self.keep = keep
        self.misfits: list[Misfit] = []
        self.scales: list[Scale] = []
        self.changed: list[ChannelIds] = []
        self.stack: list[str] = []

    def step(self, step: Step, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`func` with the counts of this step."""
        is_noted = step.scaled is not None and self._note_scale(step, args, kwargs)
        if not is_noted and step.near is not None and self._has_changed(step, args, kwargs):
            self.changed.append(step.near)
        if step.counts and func.overloadpacket is _aten.alias:
            # it sliced nothing off, since the count was larger than what is left
            func, args = step.func, (args[0], *step.args[1:])
        return func(*self._fitted(step, args), **kwargs)

    def _has_changed(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a number of the code that counts no channels is another one than before."""
        counted = {count.path[0] for count in step.counts}
        pairs = [
            pair for place, pair in enumerate(zip(step.args, args, strict=False)) if place not in counted
        ]
        pairs += [(value, kwargs.get(name, value)) for name, value in step.kwargs.items()]
        kinds = (int, float) if is_pointwise(step.func) else (float,)  # others take sizes, too
        return any(isinstance(one, kinds) and one != other for one, other in pairs)

    def _note_scale(self, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Note by how much a number that follows from a width has changed, and whether it has."""
        ids = step.scaled
        assert ids is not None
        packet, factor = step.func.overloadpacket, 1.0
        if packet not in SCALES:  # attention, whose scale is 1 / sqrt(width) unless it is given
            factor = 1.0 if kwargs.get("scale") is not None else (self.keep[ids].mean()) ** 0.5
        elif len(step.args) > 1 and isinstance(step.args[1], float) and len(args) > 1:
            before, after = step.args[1], args[1]
            is_changed = isinstance(after, float) and before and after and after != before
            factor = before / after if is_changed else 1.0
            factor = 1 / factor if packet in _QUOTIENTS else factor
        if factor != 1.0:
            self.scales.append((ids, factor))
        return bool(factor != 1.0)

    def _fitted(self, step: Step, args: tuple[Any, ...]) -> tuple[Any, ...]:
        for count in step.counts:
            first, *rest = count.path
            if first >= len(args):
                continue
            found = args[first] if not rest else args[first][rest[0]]
            wanted = int(self.keep[count.ids].sum())
            if isinstance(found, int) and found < 0 and step.func.overloadpacket is _aten.slice:
                wanted = -wanted or _END  # counted from the end
            elif not isinstance(found, int) or found < 0:
                continue
            if found == wanted:
                continue
            misfit = Misfit(self.done, count.path, found, wanted, tuple(self.stack), count.ids)
            self.misfits.append(misfit)
            new: Any = wanted
            if rest:
                new = list(args[first])
                new[rest[0]] = wanted
            args = (*args[:first], new, *args[first + 1 :])
        return args


@dataclass(frozen=True)
class Failure:
    """Why and at which of the operations that matter a narrowed network stopped."""

    error: Exception
    step: int


@dataclass(frozen=True)
class Fit:
    """A narrowed module whose counts are to be set.

    Attributes:
        model: the narrowed module; its attributes are changed.
        whole: the module that it was narrowed from.
        inputs: of its `forward`.
        way: a run of the whole network.
        keep: (ids,) what is kept.
        scales: what the last run found of channels whose products have another scale.
        changed: channels of tensors that the last run combined with other numbers than before.
    """

    model: nn.Module
    whole: nn.Module
    inputs: Inputs
    way: Way
    keep: UnitMask
    scales: list[Scale] = field(default_factory=list)
    changed: list[ChannelIds] = field(default_factory=list)

    def run(self) -> tuple[dict[Place, Misfit], Failure | None]:
        """The misfits of a run, and how it failed; what has another scale is left in `scales`."""
        fitting = _Fitting(self.way.steps, self.keep)

        def leave() -> None:
            fitting.stack.pop()

        failure: Failure | None = None
        plain = [module for module in self.model.modules() if _is_plain_norm(module)]
        widths: dict[nn.Module, int] = {}

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            widths[module] = inputs[0].shape[1]

        hooks = [module.register_forward_pre_hook(note) for module in plain]
        names = modules_noted(self.model, fitting.stack.append, leave)
        with running(self.model, fitting), names, self.way.prepared(self.model):
            try:
                self.inputs(self.model)
            except Exception as error:  # noqa: BLE001 - the user's code may raise anything
                failure = Failure(error, fitting.done - (not isinstance(error, OtherStepsError)))
        for hook in hooks:
            hook.remove()
        for module, width in widths.items():
            setattr(module, "num_features", width)  # noqa: B010 - of norms of all kinds
        self.scales[:], self.changed[:] = fitting.scales, fitting.changed
        return {(each.step, each.path): each for each in fitting.misfits}, failure


def fit_counts(fit: Fit) -> None:
    """Set the attributes of a narrowed module that hold counts.

    Raises:
        MisfitError: counts remain that no attribute holds.
        PruningError: it does not run.
    """
    model, run = fit.model, fit.run
    tried: set[tuple[int, str, Any, int]] = set()
    misfits, error = run()
    while misfits:
        chosen: dict[Any, tuple[Change, list[Place]]] = {}
        for place, misfit in misfits.items():
            fresh = (each for each in _candidates(model, fit.whole, misfit) if each.key not in tried)
            change = next(fresh, None)
            if change is not None:
                chosen.setdefault(change.key, (change, []))[1].append(place)
        if not chosen:
            raise _stuck(model, tuple(misfits.values()))
        tried |= chosen.keys()
        misfits, error = _changed(run, list(chosen.values()), misfits, error)
    if error is not None:
        raise _stopped(model, error)


def _stopped(model: nn.Module, failure: Failure) -> MisfitError:
    error = failure.error
    text = (str(error).strip().splitlines() or [""])[0][:200]
    fact = f"the narrowed network does not run ({type(error).__name__}: {text})"
    found = MisfitError(type(model).__name__, fact, "exclude the layers around code with channel counts")
    found.failed_at = failure.step
    found.__cause__ = error
    return found


def _changed(
    run: Callable[[], tuple[dict[Place, Misfit], Failure | None]],
    changes: Sequence[tuple["Change", list[Place]]],
    before: Mapping[Place, Misfit],
    failed: Failure | None,
) -> tuple[dict[Place, Misfit], Failure | None]:
    """Make changes, take back those without effect, and find the misfits that remain."""
    for change, _ in changes:
        change.do()
    after, error = run()
    if error is not None and failed is None:  # one of them was wrong
        for change, _ in reversed(changes):
            change.undo()
        if len(changes) == 1:
            return run()
        for one in changes:
            after, failed = _changed(run, [one], before, failed)
        return after, failed
    useless = [
        change
        for change, places in changes
        if all(place in after and after[place].given == before[place].given for place in places)
    ]
    for change in useless:
        change.undo()
    return run() if useless else (after, error)


def _stuck(model: nn.Module, misfits: Sequence[Misfit]) -> MisfitError:
    first = misfits[0]
    place = next((name for name in reversed(first.where) if name), type(model).__name__)
    error = MisfitError(
        place,
        f"its code has the number {first.given} where {first.wanted} channels are left",
        "keep the number in an attribute, or take it from a shape",
    )
    error.misfits = tuple(misfits)
    return error


@dataclass
class Change:
    """A number of a module that is set to another value.

    Attributes:
        owner: the module.
        name: of the attribute.
        index: in a list or tuple; None for a plain number.
        value: the new one.
    """

    owner: nn.Module
    name: str
    index: int | None
    value: int
    old: Any = None

    @property
    def key(self) -> tuple[int, str, Any, int]:
        """What it changes."""
        return id(self.owner), self.name, self.index, self.value

    def do(self) -> None:
        """Set it."""
        self.old = vars(self.owner)[self.name]
        new: Any = self.value
        if self.index is not None:
            new = list(self.old)
            new[self.index] = self.value
            new = type(self.old)(new)
        vars(self.owner)[self.name] = new

    def undo(self) -> None:
        """Set it back."""
        vars(self.owner)[self.name] = self.old


def _candidates(model: nn.Module, whole: nn.Module, misfit: Misfit) -> Iterator[Change]:
    """Numbers that may be meant: of the running module first, then of those around it.

    A number that was the count in the whole network, or a multiple of it, of which the code takes a part.
    """
    count = len(misfit.ids)
    pairs = [(model.get_submodule(name), whole.get_submodule(name)) for name in reversed(misfit.where)]
    for own, old in pairs:
        for name, value in vars(old).items():
            if _is_number(value) and value == count:
                yield Change(own, name, None, misfit.wanted)
            elif type(value) in (list, tuple) and all(map(_is_number, value)):
                for index, each in enumerate(value):
                    if each == count:
                        yield Change(own, name, index, misfit.wanted)
    for own, old in pairs:
        for name, value in vars(old).items():
            if _is_number(value) and value > count > 1 and value % count == 0:
                yield Change(own, name, None, value // count * misfit.wanted)


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether it is a norm without parameters, whose width only its input shows."""
    has_tensors = any(True for _ in (*module.parameters(), *module.buffers()))
    return isinstance(module, (*BATCH_NORMS, *INSTANCE_NORMS)) and not has_tensors


def _is_number(value: object) -> bool:
    return type(value) is int


def rescale(
    model: nn.Module,
    scales: Sequence[Scale],
    tensors: Mapping[str, Mapping[int, Tensor]],
    units: ChannelIds,
    keep: UnitMask,
) -> None:
    """Undo the change of scales: attention divides by the root of a width, which is smaller now.

    Two factors of a product write the same channels, so each takes the root; of both the last parameter
    that multiplies: the scale and shift of a norm if there is one, else the weights and biases of the layers.

    Args:
        model: narrowed; its parameters are changed.
        scales: as a run found them.
        tensors: parameter -> axis -> (shape) units, size 1 where they do not vary; before narrowing.
        units: (ids,) unit of each id.
        keep: (units,) what is kept.
    """
    factors: dict[bytes, Scale] = {}
    for ids, factor in scales:
        own = np.unique(units[ids])
        _, before = factors.get(own.tobytes(), (own, 1.0))
        factors[own.tobytes()] = own, before * factor
    named = dict(model.named_parameters())
    for own, factor in factors.values():
        found = {}
        for name in named:
            for axis, label in tensors.get(name, {}).items():
                mask = np.isin(label.numpy(), own)
                if mask.any() and mask.size == label.shape[axis]:
                    kept = keep[label.numpy().reshape(-1)]
                    found[name] = (axis, torch.from_numpy(mask.reshape(-1)[kept]))
        wide = {name.rpartition(".")[0] for name in found if named[name].ndim > 1}
        norms = {name: each for name, each in found.items() if name.rpartition(".")[0] not in wide}
        for name, (axis, rows) in (norms or found).items():
            parameter = named[name]
            shape = [-1 if place == axis else 1 for place in range(parameter.ndim)]
            factor_of_rows = torch.where(rows, factor**0.5, 1.0).to(parameter).view(shape)
            parameter.data.mul_(factor_of_rows)
