"""Which layers of a network users mean, and how much of each they want to go."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ...errors import PruningError
from ...pruning.channels import ChannelGraph

_KEYS = ("sparsity", "ratio", "exclude", "op_types", "op_names")  # of an entry of a config


@dataclass(frozen=True)
class Parts:
    """Layers by what users call them: names or types of modules that they are or lie in."""

    model: nn.Module
    layers: list[str]

    def named(self, names: Iterable[str]) -> list[str]:
        """Layers of these names, or inside of modules of these names."""
        found = []
        for wanted in names:
            inside = [name for name in self.layers if name == wanted or name.startswith(f"{wanted}.")]
            if not inside:
                fact = "is or holds no layer"
                raise PruningError(f"{wanted!r}", fact, f"the layers are {', '.join(self.layers)}")
            found += inside
        return found

    def of_types(self, kinds: Iterable[str | type[nn.Module]]) -> list[str]:
        """Layers that are, or lie in, modules of one of these types."""
        wanted, modules = set(kinds), dict(self.model.named_modules())

        def is_one(name: str) -> bool:
            parts = name.split(".")
            chain = (type(modules[".".join(parts[:count])]) for count in range(1, len(parts) + 1))
            return any(kind in wanted or kind.__name__ in wanted for kind in chain)

        return [name for name in self.layers if is_one(name)]


def words(names: str | Sequence[str]) -> list[str]:
    """One name or several."""
    return [names] if isinstance(names, str) else list(names)


def shares_of(
    parts: Parts,
    ratio: float,
    scope: str | Sequence[str] | None,
    exclude: Iterable[str | type[nn.Module]],
    config: Sequence[Mapping[str, Any]] | None,
) -> dict[str, float]:
    """Share of each layer's channels that goes: an excluded one has 0, one outside of `scope` none at all."""
    if not isinstance(ratio, int | float) or not 0 <= ratio < 1:
        raise PruningError(f"ratio {ratio}", "give a share from 0 to below 1")
    inside = set(parts.layers if scope is None else parts.named(words(scope)))
    shares = dict.fromkeys(
        (name for name in parts.layers if name in inside), ratio if config is None else 0.0
    )
    for entry in config or ():
        meant = _entry_layers(parts, entry)
        shares |= dict.fromkeys(
            (name for name in parts.layers if name in meant & inside), _entry_share(entry)
        )
    for wanted in [exclude] if isinstance(exclude, str | type) else exclude:
        gone = parts.of_types([wanted]) if isinstance(wanted, type) else parts.named([wanted])
        shares |= dict.fromkeys((name for name in gone if name in inside), 0.0)
    return shares


def _entry_share(entry: Mapping[str, Any]) -> float:
    if entry.get("exclude"):
        if {"sparsity", "ratio"} & entry.keys():
            raise PruningError(
                f"config {dict(entry)}", "has a sparsity and excludes", "leave out one of them"
            )
        return 0.0
    share = entry.get("sparsity", entry.get("ratio"))
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise PruningError(f"config {dict(entry)}", "give a sparsity from 0 to below 1, or exclude")
    return float(share)


def _entry_layers(parts: Parts, entry: Mapping[str, Any]) -> set[str]:
    """Those that an entry speaks of: of its types and of its names, where it has both."""
    if not isinstance(entry, Mapping):
        raise PruningError(f"config {entry!r}", "is no dict", "give a list of dicts")
    unknown = sorted(entry.keys() - set(_KEYS))
    if unknown:
        fact = f"{', '.join(unknown)} is not known"
        raise PruningError(f"config {dict(entry)}", fact, f"use {', '.join(_KEYS)}")
    if entry.keys() == {"exclude"}:
        raise PruningError(f"config {dict(entry)}", "excludes nothing by name", "give op_names or op_types")
    found = set(parts.layers)
    if "op_names" in entry:
        found &= set(parts.named(entry["op_names"]))
    if "op_types" in entry and "default" not in entry["op_types"]:
        found &= set(parts.of_types(entry["op_types"]))
    if not found:
        fact = "names no layer"
        kinds = sorted({type(parts.model.get_submodule(name)).__name__ for name in parts.layers})
        raise PruningError(
            f"config {dict(entry)}",
            fact,
            f"layers are {', '.join(parts.layers)}, of types {', '.join(kinds)}",
        )
    return found


def pinned_layers(graph: ChannelGraph, shares: Mapping[str, float], interface: str) -> list[str]:
    """Layers to pin: those excluded, and what is read from outside where the interface is kept."""
    pinned = [name for name, share in shares.items() if share == 0]
    if interface == "keep":
        read = [layer.inputs for name, layer in graph.layers.items() if name not in shares]
        units = np.unique(np.concatenate([np.zeros(0, dtype=np.intp), *read]))
        pinned += [name for name in shares if np.isin(graph.layers[name].outputs, units).any()]
    return pinned
