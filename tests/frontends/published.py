"""The published pruning programs' rules again, as plainly as can be: on the cfg's text, with numpy alone.

Nothing of the engine is used. Sections are (kind, options) pairs, masks are by Darknet's layer number.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Section = tuple[str, dict[str, str]]
Gammas = Mapping[int, NDArray[np.float32]]  # layer number -> |gamma| of its batch norm
Masks = dict[int, NDArray[np.bool_]]


def sections_of(path: Path) -> list[Section]:
    """All sections but [net]."""
    found: list[Section] = []
    for line in path.read_text().splitlines():
        line = line.split("#")[0].replace(" ", "").strip()
        if line.startswith("["):
            found.append((line.strip("[]"), {}))
        elif "=" in line:
            key, _, value = line.partition("=")
            found[-1][1].setdefault(key, value)
    return found[1:]


def normalised(sections: list[Section]) -> list[int]:
    """Convolutions with batch norm."""
    return [i for i, (_, options) in enumerate(sections) if options.get("batch_normalize") == "1"]


def candidates(sections: list[Section]) -> list[int]:
    """Of slim_prune and shortcut_prune."""
    excluded = set()
    for i, (kind, options) in enumerate(sections):
        if kind == "upsample" or (kind == "route" and "groups" in options):
            excluded.add(i - 1)
        if kind == "route" and sections[i - 1][0] == "maxpool":
            excluded.add(i - 2)
    return [i for i in normalised(sections) if i not in excluded]


def identity(sections: list[Section], shortcut: int) -> int:
    """Layer whose output a shortcut adds to that of the layer before it."""
    value = int(sections[shortcut][1]["from"])
    return shortcut + value if value < 0 else value


def group(sections: list[Section], shortcut: int) -> list[int]:
    """Convolutions that the sums up to this shortcut consist of, last first; the last one heads the chain."""
    members = []
    while sections[shortcut][0] == "shortcut":
        members.append(shortcut - 1)
        shortcut = identity(sections, shortcut)
    return [*members, shortcut]


def groups(sections: list[Section]) -> list[list[int]]:
    """Of every last shortcut of a chain."""
    shortcuts = [i for i, (kind, _) in enumerate(sections) if kind == "shortcut"]
    inner = {identity(sections, i) for i in shortcuts}
    return [group(sections, i) for i in shortcuts if i not in inner]


def threshold(gammas: Gammas, pool: list[int], percent: float) -> np.float32:
    """The value at `percent` of the sorted gammas."""
    values = np.sort(np.concatenate([gammas[i] for i in pool]))
    return values[int(len(values) * percent)]


def best(values: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """The `count` largest, the first ones of equals."""
    mask = np.zeros(len(values), bool)
    mask[sorted(range(len(values)), key=lambda i: -values[i])[:count]] = True
    return mask


def normal_masks(sections: list[Section], gammas: Gammas, percent: float) -> Masks:
    """prune.py: what no shortcut ties; at the threshold is kept."""
    tied = {i for members in groups(sections) for i in members}
    return _from_threshold_on(gammas, [i for i in candidates(sections) if i not in tied], percent)


def shortcut_masks(sections: list[Section], gammas: Gammas, percent: float) -> Masks:
    """shortcut_prune.py: the head of each chain decides for all its members."""
    found = groups(sections)
    followers = {i for members in found for i in members[:-1]}
    masks = _from_threshold_on(gammas, [i for i in candidates(sections) if i not in followers], percent)
    for *members, head in found:
        for i in members:
            masks[i] = masks[head]
    return masks


def slim_masks(sections: list[Section], gammas: Gammas, percent: float, layer_keep: float) -> Masks:
    """slim_prune.py: above the threshold is kept, then a floor, then the union of each group."""
    pool = candidates(sections)
    limit = threshold(gammas, pool, percent)
    masks = _whole(gammas)
    for i in pool:
        masks[i] = gammas[i] > limit
        least = max(1, int(len(gammas[i]) * layer_keep))
        if masks[i].sum() < least:
            masks[i] = best(gammas[i], least)
    for members in groups(sections):
        merged = np.logical_or.reduce([masks[i] for i in members])
        for i in members:
            masks[i] = merged
    return masks


def weakest_blocks(sections: list[Section], gammas: Gammas, count: int) -> list[int]:
    """Layer numbers of the shortcuts that go."""
    shortcuts = [i for i, (kind, _) in enumerate(sections) if kind == "shortcut"]
    return sorted(sorted(shortcuts, key=lambda i: gammas[i - 1].mean(dtype=np.float64))[:count])


def shortened(sections: list[Section], removed: list[int]) -> list[tuple[str, list[int]]]:
    """Kinds and references, as written, of what is left when two layers go with each shortcut."""
    gone = {i for last in removed for i in (last - 2, last - 1, last)}
    left = []
    for i, (kind, options) in enumerate(sections):
        if i not in gone:
            text = options.get("layers", options.get("from", ""))
            left.append((kind, [_moved(int(value), i, gone) for value in text.split(",") if value]))
    return left


def _moved(value: int, index: int, gone: set[int]) -> int:
    if value >= 0:
        return value - sum(i <= value for i in gone)
    return value + sum(index + value < i < index for i in gone)


def _from_threshold_on(gammas: Gammas, pool: list[int], percent: float) -> Masks:
    limit = threshold(gammas, pool, percent)
    masks = _whole(gammas)
    for i in pool:
        masks[i] = gammas[i] >= limit
        if not masks[i].any():
            masks[i] = best(gammas[i], 1)
    return masks


def _whole(gammas: Gammas) -> Masks:
    return {i: np.ones(len(values), bool) for i, values in gammas.items()}
