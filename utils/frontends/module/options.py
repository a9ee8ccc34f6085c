"""Options of `slim`: checked values, and the layers that they name with the ratio of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from ...errors import PruningError
from ...pruning.channels import ChannelGraph
from ...pruning.scores import Scorer
from ...pruning.surgery import Folding

Scheme = Literal["uniform", "global", "guarded"]
Interface = Literal["follow", "keep"]
Verify = Literal["quick", "full"]
_CHOICES = {
    "scheme": get_args(Scheme),
    "interface": get_args(Interface),
    "folding": get_args(Folding),
    "verify": get_args(Verify),
}
_KEYS = ("sparsity", "ratio", "exclude", "op_types", "op_names")  # of a config entry


@dataclass(frozen=True)
class SlimOptions:
    """The keywords of `slim`, checked; described there.

    Raises:
        PruningError: a value is out of range or not one of those allowed.
    """

    ratio: float = 0.5
    score: str | Scorer = "l1"
    scope: str | Sequence[str] | None = None
    exclude: Iterable[str | type[nn.Module]] = ()
    align: int = 8
    scheme: Scheme = "uniform"
    config: Sequence[Mapping[str, Any]] | None = None
    interface: Interface = "follow"
    layer_keep: float = 0.1
    min_channels: int = 1
    folding: Folding = "interior"
    values: Mapping[str, Any] | None = None
    seed: int = 0
    verify: Verify = "full"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                remedy = f"use {', '.join(allowed)}"
                raise PruningError(f"{name} {getattr(self, name)!r}", "invalid value", remedy)
        for name in ("align", "min_channels"):
            count = getattr(self, name)
            if not isinstance(count, int) or count < 1:
                raise PruningError(f"{name} {count}", "invalid value", "give a whole number from 1")
        if not _is_ratio(self.ratio):
            raise PruningError(f"ratio {self.ratio!r}", "invalid value", "give a number from 0 to below 1")
        if not 0 <= self.layer_keep <= 1:
            raise PruningError(f"layer_keep {self.layer_keep}", "invalid value", "give a number from 0 to 1")


def _is_ratio(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < 1


@dataclass(frozen=True)
class Parts:
    """Layers by the names or types of the modules that they are or are inside of."""

    model: nn.Module
    layers: list[str]

    def named(self, names: Iterable[str]) -> list[str]:
        """Layers of these names, or inside of modules of these names."""
        found = []
        for wanted in names:
            inside = [name for name in self.layers if name == wanted or name.startswith(f"{wanted}.")]
            if not inside:
                fact = "is not a layer and contains none"
                raise PruningError(f"{wanted!r}", fact, f"the layers are {', '.join(self.layers)}")
            found += inside
        return found

    def of_types(self, kinds: Iterable[str | type[nn.Module]]) -> list[str]:
        """Layers that are, or are inside of, modules of one of these types."""
        wanted, modules = set(kinds), dict(self.model.named_modules())

        def is_one(name: str) -> bool:
            parts = name.split(".")
            chain = (type(modules[".".join(parts[:count])]) for count in range(1, len(parts) + 1))
            return any(kind in wanted or kind.__name__ in wanted for kind in chain)

        return [name for name in self.layers if is_one(name)]


def words(names: str | Sequence[str]) -> list[str]:
    """One name or several, as a list."""
    return [names] if isinstance(names, str) else list(names)


def ratios_of(parts: Parts, options: SlimOptions) -> dict[str, float]:
    """Ratio of each layer: 0 for an excluded one; layers outside of `scope` have no entry."""
    inside = set(parts.layers if options.scope is None else parts.named(words(options.scope)))
    ratio = options.ratio if options.config is None else 0.0
    ratios = dict.fromkeys((name for name in parts.layers if name in inside), ratio)
    for entry in options.config or ():
        meant = _entry_layers(parts, entry)
        ratios |= dict.fromkeys(
            (name for name in parts.layers if name in meant & inside), _entry_ratio(entry)
        )
    exclude = options.exclude
    for wanted in [exclude] if isinstance(exclude, str | type) else exclude:
        excluded = parts.of_types([wanted]) if isinstance(wanted, type) else parts.named([wanted])
        ratios |= dict.fromkeys((name for name in excluded if name in inside), 0.0)
    return ratios


def _entry_ratio(entry: Mapping[str, Any]) -> float:
    place = f"config {dict(entry)}"
    if entry.get("exclude"):
        if {"sparsity", "ratio"} & entry.keys():
            raise PruningError(place, "has both a sparsity and exclude", "remove one of them")
        return 0.0
    ratio = entry.get("sparsity", entry.get("ratio"))
    if ratio is None or not _is_ratio(ratio):
        fact = "no sparsity" if ratio is None else "sparsity out of range"
        raise PruningError(place, fact, "give a sparsity from 0 to below 1, or exclude")
    return float(ratio)


def _entry_layers(parts: Parts, entry: Mapping[str, Any]) -> set[str]:
    """Layers that a config entry applies to; with both types and names, those that match both."""
    if not isinstance(entry, Mapping):
        raise PruningError(f"config {entry!r}", "not a dict", "give a list of dicts")
    place = f"config {dict(entry)}"
    unknown = sorted(entry.keys() - set(_KEYS))
    if unknown:
        raise PruningError(place, f"unknown key {', '.join(unknown)}", f"use {', '.join(_KEYS)}")
    if entry.keys() == {"exclude"}:
        raise PruningError(place, "excludes nothing by name", "give op_names or op_types")
    found = set(parts.layers)
    if "op_names" in entry:
        found &= set(parts.named(entry["op_names"]))
    if "op_types" in entry and "default" not in entry["op_types"]:
        found &= set(parts.of_types(entry["op_types"]))
    if not found:
        kinds = sorted({type(parts.model.get_submodule(name)).__name__ for name in parts.layers})
        remedy = f"the layers are {', '.join(parts.layers)}, of types {', '.join(kinds)}"
        raise PruningError(place, "matches no layer", remedy)
    return found


def pinned_layers(graph: ChannelGraph, ratios: Mapping[str, float], interface: Interface) -> list[str]:
    """Layers to pin: the excluded ones, and under "keep" those that layers outside of the scope read."""
    pinned = [name for name, ratio in ratios.items() if ratio == 0]
    if interface == "keep":
        read = [layer.inputs for name, layer in graph.layers.items() if name not in ratios]
        units = np.unique(np.concatenate([np.zeros(0, dtype=np.intp), *read]))
        pinned += [name for name in ratios if np.isin(graph.layers[name].outputs, units).any()]
    return pinned
