"""Content of the HTML report: sections, scores, accuracy by class, and sample images with boxes.

page = network_page(subject, compact, scores, sections, removed_blocks, image_size)
page = replace(page, title="...", cards=cards(figures_before, figures_after), classes=class_rows(...), ...)
write_page(path, page)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ...darknet.edit import residual_blocks
from ...darknet.model import Darknet, fused, inference
from ...darknet.network import Network, section_costs
from ...darknet.sections import Convolutional, Section
from ...data.dataset import DetectionDataset
from ...data.images import read_image
from ...data.loader import Loader
from ...detection.boxes import pairwise_iou, xywh_to_xyxy
from ...detection.evaluator import Evaluation
from ...errors import DatasetError
from ...frontends.darknet.subject import DarknetSubject, section_index
from ...profiling import measure_modules
from ...pruning.channels import ChannelGraph, components
from ...pruning.policies import Candidates, judged_channels
from ...pruning.report import Figures, SectionChange
from ...pruning.subject import LayerScores
from ...reporting.charts import digits, percent, points, short
from ...reporting.page import Box, Card, ClassRow, Page, Sample, SectionRow
from ...runtimes.detecting import Detector, Floats, Thresholds
from ..output import Track, untracked

_ROUNDS, _WARM_UP = 9, 2
_LONGEST_SIDE, _QUALITY = 640, 82  # pixels and JPEG quality of a sample
LOOKED_AT = 16  # images among which the samples are chosen
_SAME_BOX = 0.5  # IoU from which two boxes are one
_SHOWN = Thresholds(confidence=0.25)
SAMPLES_NOTE = (
    f"Shown are those of the first {LOOKED_AT} validation images where most boxes were lost or gained; "
    f"boxes with a score of at least {_SHOWN.confidence}, matched at an IoU of at least {_SAME_BOX}."
)

Pair = tuple[float, float]  # milliseconds before and after


def network_page(
    subject: DarknetSubject,
    after: Darknet,
    scores: LayerScores,
    sections: Sequence[SectionChange],
    removed_blocks: Sequence[int],
    image_size: tuple[int, int],
    *,
    candidates: Candidates = "all",
    timed: bool = True,
) -> Page:
    """The parts of a page that describe the networks: sections with their times, scores, cfgs.

    Args:
        subject: the network as it was.
        after: the pruned one.
        scores: importance of the channels of `subject`.
        sections: every layer of `subject` before and after.
        removed_blocks: numbers of the shortcuts whose blocks were removed.
        image_size: (height, width) at which multiply-adds and times count.
        candidates: what the strategy could remove.
        timed: whether to measure every section's milliseconds.
    """
    before, graph = subject.model, subject.graph
    moved = moved_sections(before.network, removed_blocks)
    times = section_times(before, after, moved, image_size) if timed else None
    rows = section_rows(before, after, graph, sections, moved, image_size, times)
    values, kept = channel_scores(graph, scores, sections, candidates)
    lost = sum(row.removed for row in rows)
    left = f"{int(kept.sum()):,} of the {len(kept):,} removable channels are left"
    return Page(
        title=before.network.source,
        subtitle=f"{left}, {lost} sections with filters were removed." if lost else f"{left}.",
        sections=rows,
        other_milliseconds=None if times is None else other_times(rows, times),
        scores=values,
        kept=kept,
        cfg_before=before.network.to_cfg(),
        cfg_after=after.network.to_cfg(),
        moved=moved,
    )


def moved_sections(network: Network, removed_blocks: Sequence[int]) -> dict[int, int]:
    """Old -> new number of every kept section.

    Args:
        network: as it was before.
        removed_blocks: numbers of the shortcuts whose blocks were removed, as in `PruningReport`.
    """
    blocks = {block.shortcut: block for block in residual_blocks(network)}
    gone = {index for shortcut in removed_blocks for index in blocks[shortcut].sections}
    kept = (index for index in range(len(network)) if index not in gone)
    return {old: new for new, old in enumerate(kept)}


def section_rows(
    before: Darknet,
    after: Darknet,
    graph: ChannelGraph,
    sections: Sequence[SectionChange],
    moved: Mapping[int, int],
    image_size: tuple[int, int],
    times: Sequence[Pair] | None = None,
) -> tuple[SectionRow, ...]:
    """A row for each section with filters.

    Args:
        before: the network as it was.
        after: the pruned one.
        graph: the channels of `before`.
        sections: every layer of `graph` before and after.
        moved: see `moved_sections`.
        image_size: (height, width) at which multiply-adds count.
        times: see `section_times`; None where it was not measured.
    """
    old = section_costs(before.network, image_size)
    new = section_costs(after.network, image_size)
    groups = _groups(graph)
    rows = []
    for change in sections:
        index = change.index
        cost = new[moved[index]] if index in moved else None
        rows.append(
            SectionRow(
                index=index,
                label=_label(before.network[index]),
                filters_before=len(change.mask),
                filters_after=after.network.channels(moved[index]) if cost else 0,
                removed=cost is None,
                group=groups.get(index),
                parameters=(old[index].parameters, cost.parameters if cost else 0),
                macs=(old[index].macs, cost.macs if cost else 0),
                milliseconds=times[index] if times else None,
            )
        )
    return tuple(rows)


def section_times(
    before: Darknet, after: Darknet, moved: Mapping[int, int], image_size: tuple[int, int]
) -> tuple[Pair, ...]:
    """Milliseconds of every section before and after, as deployed, measured interleaved.

    The sections are those of `before`; a removed one takes none after.
    """
    deployed = {"before": fused(before), "after": fused(after)}
    times = measure_modules(
        {name: inference(model, image_size) for name, model in deployed.items()},
        {name: list(model.layers) for name, model in deployed.items()},
        rounds=_ROUNDS,
        warmup=_WARM_UP,
    )
    return tuple(
        (time, times["after"][moved[index]] if index in moved else 0.0)
        for index, time in enumerate(times["before"])
    )


def other_times(rows: Sequence[SectionRow], times: Sequence[Pair]) -> Pair:
    """Milliseconds of all sections that have no row, together."""
    shown = {row.index for row in rows}
    others = [pair for index, pair in enumerate(times) if index not in shown]
    return sum(before for before, _ in others), sum(after for _, after in others)


def channel_scores(
    graph: ChannelGraph,
    scores: LayerScores,
    sections: Sequence[SectionChange],
    candidates: Candidates = "all",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores of all channels that could be removed, (channels,), and which of them are kept, (channels,).

    Args:
        graph: the channels of the network before.
        scores: of its layers.
        sections: every layer before and after.
        candidates: what the strategy may remove.
    """
    kept = {change.index: change.mask for change in sections}
    masks = {name: kept[section_index(name)] for name in graph.layers if section_index(name) in kept}
    return judged_channels(graph, scores, masks, candidates)


def class_rows(before: Evaluation, after: Evaluation) -> tuple[ClassRow, ...]:
    """Both networks' AP of every class that occurs, evaluated on the same images."""
    return tuple(
        ClassRow(name, before.truths[name], ap, after.per_class[name])
        for name, ap in before.per_class.items()
        if before.truths[name]
    )


def cards(before: Figures, after: Figures, timed_on: str) -> tuple[Card, ...]:
    """The summary: accuracy where it was measured, parameters, MACs, file size, latency on a runtime."""
    found = []
    if before.map50 is not None and after.map50 is not None:
        change = f"{points(after.map50 - before.map50)} points"
        share = after.map50 / before.map50 if before.map50 else None
        found.append(Card("mAP@0.5", percent(before.map50), percent(after.map50), change, share))
    found.append(_left("Parameters", before.parameters, after.parameters, short))
    found.append(_left("MACs per image", before.macs, after.macs, short))
    found.append(_left("Weights file", before.file_size, after.file_size, _mebibytes))
    if before.latency is not None and after.latency is not None:
        found.append(_left(f"Latency, {timed_on}", before.latency.p50, after.latency.p50, _milliseconds))
    return tuple(found)


def _groups(graph: ChannelGraph) -> dict[int, int]:
    """Section number -> number of its group, from 1, for sections whose outputs shortcuts add."""
    written = {section_index(name): layer.outputs for name, layer in graph.layers.items()}
    coupled = {index: units[graph.coupled[units]] for index, units in written.items()}
    classes = components(
        graph.unit_count, [(units, np.full_like(units, units[0])) for units in coupled.values() if len(units)]
    )
    sets = {index: int(classes[units[0]]) for index, units in coupled.items() if len(units)}
    numbers = {root: number for number, root in enumerate(dict.fromkeys(sets.values()), start=1)}
    return {index: numbers[root] for index, root in sets.items()}


def _label(section: Section) -> str:
    if not isinstance(section, Convolutional):
        return section.kind
    stride = "/".join(map(str, sorted(set(section.stride))))
    parts = [f"{section.size}×{section.size}"]
    parts += [f"/ {stride}"] if stride != "1" else []
    parts += [f"{section.groups} groups"] if section.groups > 1 else []
    return " ".join(parts)


def _left(label: str, before: float, after: float, show: Callable[[float], str]) -> Card:
    return Card(label, show(before), show(after), f"{100 * after / before:.0f} % left", after / before)


def _mebibytes(value: float) -> str:
    return f"{digits(value / 2**20)} MiB"


def _milliseconds(value: float) -> str:
    return f"{digits(value)} ms"


def samples(
    before: Darknet,
    after: Darknet,
    loader: Loader,
    names: Sequence[str],
    count: int = 4,
    *,
    track: Track = untracked,
) -> tuple[Sample, ...]:
    """The images on which the two networks differ most, as `SAMPLES_NOTE` says, in the order of the list.

    Args:
        before: the network as it was.
        after: the pruned one.
        loader: validation images with labels; images that cannot be read are passed over.
        names: class names.
        count: of images, at most.
        track: shows progress.
    """
    dataset = loader.dataset
    detectors = [Detector(model, dataset.image_size, _SHOWN, dataset.letterbox) for model in (before, after)]
    found = []
    for number in track(range(min(LOOKED_AT, len(dataset.images))), "comparing boxes"):
        try:
            image = read_image(dataset.images[number])
        except DatasetError:
            continue
        rows = [_as_fractions(detector(image)[0], image) for detector in detectors]
        boxes = tuple(compared(rows[0], rows[1], _truths(dataset, number), names))
        found.append((number, Sample(dataset.images[number].name, _jpeg(image), image.shape[:2], boxes)))
    telling = sorted(found, key=lambda item: (-len(item[1].changes), -len(item[1].boxes)))
    return tuple(sample for _, sample in sorted(telling[:count], key=lambda item: item[0]))


def compared(before: Floats, after: Floats, truths: Floats, names: Sequence[str]) -> Iterator[Box]:
    """Match the detections of two networks on one image.

    Args:
        before: (M, 6) xyxy as fractions of the image, score, class, best first.
        after: (N, 6) the same.
        truths: (T, 5) class, xyxy.
        names: class names.

    Yields:
        The boxes of `before`, kept or lost, then those of `after` that none of them claimed, gained. A box
        claims the one of its class that it overlaps most, the better score first.
    """
    overlaps = _overlaps(before, after)
    free = np.ones(len(after), dtype=np.bool_)
    for row, overlap in zip(before, overlaps, strict=True):
        overlap = overlap * free
        kept = bool(overlap.max(initial=0.0) >= _SAME_BOX)
        if kept:
            free[overlap.argmax()] = False
        yield _box(row, "kept" if kept else "lost", truths, names)
    yield from (_box(row, "gained", truths, names) for row in after[free])


def _overlaps(first: Floats, second: Floats) -> Floats:
    """(M, N) IoU of rows xyxy, score, class; 0 between classes."""
    iou = pairwise_iou(torch.from_numpy(first[:, :4]), torch.from_numpy(second[:, :4])).numpy()
    return iou * (first[:, None, 5] == second[:, 5])


def _box(row: Floats, kind: str, truths: Floats, names: Sequence[str]) -> Box:
    labelled = np.concatenate((truths[:, 1:], np.ones((len(truths), 1)), truths[:, :1]), axis=1)
    right = bool(_overlaps(row[None], labelled).max(initial=0.0) >= _SAME_BOX)
    left, top, right_edge, bottom = row[:4].clip(0, 1).tolist()
    return Box((left, top, right_edge, bottom), names[int(row[5])], float(row[4]), kind, right)


def _as_fractions(rows: Floats, image: NDArray[np.uint8]) -> Floats:
    height, width = image.shape[:2]
    return np.concatenate((rows[:, :4] / (width, height, width, height), rows[:, 4:]), axis=1)


def _truths(dataset: DetectionDataset, number: int) -> Floats:
    """(T, 5) class and xyxy as fractions of the image."""
    labels = torch.from_numpy(dataset.index.labels[number]).double()
    return torch.cat((labels[:, :1], xywh_to_xyxy(labels[:, 1:])), dim=1).numpy()


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    """An RGB image as a JPEG file, its longer side `_LONGEST_SIDE` pixels at most."""
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", smaller[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
