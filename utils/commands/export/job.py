"""A network ready to be exported; a data set adds images to calibrate on and the mAP before and after."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...darknet.model import Darknet
from ...data.listing import DataFile
from ...detection.evaluator import Predict, Scoring, evaluate
from ...exporters.job import Accuracy, Exporting, exporting
from ...exporters.parity import Infer, module_infer
from ...runtimes.detecting import facts_of, predictions_of
from ...runtimes.runtime import Images
from ..evaluate.run import open_split, require_same_classes
from ..output import Track, advancing, untracked

CALIBRATION_IMAGES = 128
BATCH = 8


def make_job(
    model: Darknet,
    data: DataFile | None,
    image_size: tuple[int, int],
    workers: int,
    *,
    raw_heads: bool = False,
    track: Track = untracked,
    **options: Any,
) -> Exporting:
    """Prepare the export of a network.

    Args:
        model: with its weights.
        data: of its data set, if there is one.
        image_size: (height, width) of the input in pixels.
        workers: processes that load images.
        raw_heads: the outputs are the raw heads.
        track: shows the progress.
        options: other arguments of `exporting`.

    Raises:
        ExportError: see `exporting`.
        ToolkitError: the network has other classes than the data set.
    """
    network = model.network
    job = exporting(
        model,
        model.head_specs,
        image_size,
        channels=network.channels(-1),
        size_step=network.size_step,
        metadata=metadata(model, data.names if data else (), image_size),
        raw_heads=raw_heads,
        progress=track,
        **options,
    )
    if data is None:
        return job
    require_same_classes(data, facts_of(model))
    job = replace(job, calibration=calibration(model, data, image_size, workers, track))
    if job.precision == "fp32" or raw_heads:
        return job
    measure = partial(measured, model=model, data=data, image_size=image_size, workers=workers, track=track)
    before = measure(module_infer(job.module))
    return replace(job, accuracy=Accuracy(before, partial(measure, batch=None if job.dynamic_batch else 1)))


def metadata(model: Darknet, names: Iterable[str], image_size: tuple[int, int]) -> dict[str, str]:
    """Metadata for detecting with an exported file without a cfg, as JSON texts."""
    specs, network = model.head_specs, model.network
    darknet = {
        "letterbox": network.letterbox,
        "nms_kind": specs[-1].nms_kind,
        "beta_nms": specs[-1].beta_nms,
        "image_size": list(image_size),
        "channels": network.channels(-1),
    }
    texts = {
        "anchors": json.dumps([spec.anchors for spec in specs]),
        "strides": json.dumps([spec.stride for spec in specs]),
        "cfg_sha256": hashlib.sha256(network.to_cfg().encode()).hexdigest(),
        "darknet": json.dumps(darknet),
    }
    listed = list(names)
    return texts | ({"names": json.dumps(listed)} if listed else {})


def calibration(
    model: Darknet,
    data: DataFile,
    image_size: tuple[int, int],
    workers: int = 0,
    track: Track = untracked,
) -> Callable[[], Iterable[Images]]:
    """Images of the training list, evenly spread, as `evaluate.py` prepares them; batches (B, C, H, W)."""

    def batches() -> Iterable[Images]:
        loader = open_split(
            data, "train", model, image_size, batch_size=BATCH, workers=workers, limit=CALIBRATION_IMAGES
        )
        with advancing(track, len(loader.dataset), "calibrating") as advance:
            for batch in loader:
                yield np.ascontiguousarray(batch.images.numpy())
                advance(len(batch))

    return batches


def measured(
    infer: Infer,
    model: Darknet,
    data: DataFile,
    image_size: tuple[int, int],
    workers: int = 0,
    batch: int | None = None,
    track: Track = untracked,
) -> float:
    """mAP@0.5 on the valid list, 0..1.

    Args:
        infer: images (B, 3, H, W) -> boxes (B, N, 4) as xyxy and scores (B, N, classes).
        model: the network that is exported.
        data: of the data set.
        image_size: (height, width) of the input in pixels.
        workers: processes that load images.
        batch: number of images that `infer` takes at a time; None for any.
        track: shows the progress.
    """
    loader = open_split(data, "valid", model, image_size, batch_size=BATCH, workers=workers)
    predict, specs = predictor(infer, batch), model.head_specs
    with advancing(track, len(loader.dataset), "evaluating") as advance:
        return evaluate(predict, loader, data.names, Scoring(specs=specs), progress=advance).map50


def predictor(infer: Infer, batch: int | None = None) -> Predict:
    """Adapt an exported file's outputs to the evaluator: images -> decoded boxes (B, N, 5 + classes).

    Args:
        infer: images (B, 3, H, W) -> boxes (B, N, 4) as xyxy and scores (B, N, classes).
        batch: number of images that it takes at a time; None for any.
    """

    def decoded(images: Tensor) -> Tensor:
        boxes, scores = (torch.from_numpy(output) for output in infer(np.ascontiguousarray(images.numpy())))
        return predictions_of(boxes, scores)

    def predict(images: Tensor) -> Tensor:
        parts = [images] if batch is None else images.split(batch)
        return torch.cat([decoded(part) for part in parts])

    return predict
