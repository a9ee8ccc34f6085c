"""Fit of anchors to the objects of a data set, and better anchors by k-means.

Idea: the fit is the IoU of an object with its best anchor, both centred on one point (Redmon and Farhadi
2016, section 2), so 1 - IoU is the distance of the k-means and its mean over the objects the score.

Invariant: suggested anchors fit the objects they were computed from at least as well as the anchors before,
in mean IoU and in recall.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import Finding

Sizes = NDArray[np.float64]  # (n, 2): width, height in pixels of the network input

RECALL_AT = (0.25, 0.5)
# More objects than this change the centres by less than the rounding of the anchors.
CLUSTERED = 5_000
_ROUNDS = 100
_REWEIGHTINGS = 8
# A smaller gain in recall or mean IoU is not worth changing the anchors of pretrained heads.
WORTHWHILE = 0.05


@dataclass(frozen=True)
class AnchorFit:
    """Fit of anchors to objects.

    Attributes:
        mean_iou: of each object with its best anchor, 0..1.
        recall: for each threshold of `RECALL_AT`, the share of objects whose best anchor has at least that
            IoU; a detector finds the others only if it changes the size of an anchor much.
        objects: for each anchor, the number of objects that it fits best.
    """

    mean_iou: float
    recall: tuple[float, ...]
    objects: tuple[int, ...]


def size_iou(sizes: Sizes, anchors: Sizes) -> NDArray[np.float64]:
    """IoU of boxes centred on one point: entry [i, j] is that of sizes[i] and anchors[j].

    >>> size_iou(np.array([[10.0, 20.0]]), np.array([[10.0, 20.0], [20.0, 10.0]])).round(3).tolist()
    [[1.0, 0.333]]
    """
    # One matrix for each side: three (n, k) arrays, no (n, k, 2) one.
    shared = np.minimum(sizes[:, None, 0], anchors[None, :, 0])
    shared *= np.minimum(sizes[:, None, 1], anchors[None, :, 1])
    union = sizes.prod(1)[:, None] + anchors.prod(1)[None] - shared
    return np.asarray(shared / union)


def anchor_fit(sizes: Sizes, anchors: Sizes) -> AnchorFit:
    """Compute the fit of `anchors` to `sizes`; both (n, 2) and positive, at least one of each."""
    overlap = size_iou(sizes, anchors)
    best = overlap.max(1)
    recall = tuple(float((best >= threshold).mean()) for threshold in RECALL_AT)
    counts = np.bincount(overlap.argmax(1), minlength=len(anchors))
    return AnchorFit(float(best.mean()), recall, tuple(counts.tolist()))


def suggest_anchors(sizes: Sizes, current: Sizes, *, seed: int = 0, restarts: int = 10) -> Sizes:
    """Compute anchors that fit `sizes` at least as well as `current`, by area, rounded to a tenth of a pixel.

    Args:
        sizes: (n, 2) of all objects, positive.
        current: (k, 2), one of the starting points.
        seed: of the other starting points.
        restarts: number of other starting points.

    Returns:
        (k, 2); `current` itself if nothing better is found, or if there are fewer objects than anchors.
    """
    generator = np.random.default_rng(seed)
    sample = sizes if len(sizes) <= CLUSTERED else generator.choice(sizes, CLUSTERED, replace=False)
    starts = [current, *(_spread(sample, len(current), generator) for _ in range(restarts))]
    found = [anchors for start in starts for anchors in _candidates(sample, start)]
    found.sort(key=lambda anchors: -anchor_fit(sample, anchors).mean_iou)
    needed = anchor_fit(sizes, current)
    if len(sizes) < len(current):
        found = []
    best = next((anchors for anchors in found if _is_no_loss(anchor_fit(sizes, anchors), needed)), current)
    return best[np.argsort(best.prod(1), kind="stable")]


def _is_no_loss(fit: AnchorFit, needed: AnchorFit) -> bool:
    pairs = [(fit.mean_iou, needed.mean_iou), *zip(fit.recall, needed.recall, strict=True)]
    return all(new >= old for new, old in pairs)


def _candidates(sizes: Sizes, start: Sizes) -> Iterator[Sizes]:
    """Centres of the objects; then with increasing weight on those that no centre fits well."""
    weights = np.ones(len(sizes))
    for _ in range(_REWEIGHTINGS):
        anchors = _cluster(sizes, start, weights).round(1).clip(0.1)
        yield anchors
        best = size_iou(sizes, anchors).max(1)
        for threshold in RECALL_AT:
            weights[best < threshold] *= 2


def _spread(sizes: Sizes, count: int, generator: np.random.Generator) -> Sizes:
    """Initial centres: objects, each drawn by its distance from those before (k-means++)."""
    centres = sizes[generator.integers(len(sizes))][None]
    while len(centres) < count:
        distance = 1 - size_iou(sizes, centres).max(1)
        total = distance.sum()
        # If every object is a centre already, any will do.
        weights = distance / total if total > 0 else None
        centres = np.vstack((centres, sizes[generator.choice(len(sizes), p=weights)]))
    return centres


def _cluster(sizes: Sizes, centres: Sizes, weights: NDArray[np.float64]) -> Sizes:
    """Move each centre to the weighted mean of its objects until nothing changes.

    The geometric mean: IoU depends on ratios, and the arithmetic mean favours large objects.
    """
    logs, centres, owners = np.log(sizes), centres.copy(), np.full(len(sizes), -1)
    for _ in range(_ROUNDS):
        now = size_iou(sizes, centres).argmax(1)
        if (now == owners).all():
            break
        owners = now
        totals = np.bincount(owners, weights, len(centres))
        sums = np.stack([np.bincount(owners, weights * logs[:, side], len(centres)) for side in range(2)], 1)
        filled = totals > 0
        centres[filled] = np.exp(sums[filled] / totals[filled, None])
    return centres


def judge_anchors(current: AnchorFit, suggested: AnchorFit, place: str) -> tuple[Finding, ...]:
    """Findings about anchors, compared with the best that k-means finds.

    Args:
        current: fit of the anchors as they are.
        suggested: fit of the suggestion.
        place: of the anchors, for the findings.
    """
    findings = []
    pairs = [(current.mean_iou, suggested.mean_iou), *zip(current.recall, suggested.recall, strict=True)]
    if max(better - now for now, better in pairs) > WORTHWHILE:
        fact = f"the anchors have {_figures(current)}; better anchors have {_figures(suggested)}"
        remedy = "use the suggested anchors, unless trained heads are kept"
        findings.append(Finding("warning", place, fact, remedy))
    idle = [number for number, count in enumerate(current.objects) if count == 0]
    if idle:
        fact = f"{len(idle)} of {len(current.objects)} anchors fit no object best"
        findings.append(Finding("note", place, fact))
    return tuple(findings)


def _figures(fit: AnchorFit) -> str:
    recalls = (
        f"{recall:.1%} at {threshold:g}" for threshold, recall in zip(RECALL_AT, fit.recall, strict=True)
    )
    return f"mean best IoU {fit.mean_iou:.2f} and recall {', '.join(recalls)}"
