"""Detectors on any runtime: a Darknet in torch, or an exported file; detection from pixels to boxes.

Invariant: `predict` returns decoded boxes as `decode_heads` does, so detecting and evaluating need not know
which of the two it is. A file's scores are objectness times class; its predictions have an objectness of 1.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..darknet.heads import Head
from ..darknet.model import Darknet, fused
from ..darknet.network import Network
from ..data.images import place, resize_exactly
from ..detection.boxes import suppress, xyxy_to_xywh
from ..detection.decode import decode_heads
from ..detection.evaluator import Predict, as_fractions
from ..errors import CfgError, ToolkitError
from .metadata import darknet_of, names_of, size_step_of
from .runtime import OPEN, Images, Outputs, Runtime, Session, find_runtime, warm_up

_STEP = 32  # pixels; largest stride where a file does not state it


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts needed to feed a network images and to use its boxes.

    Attributes:
        source: its name in messages.
        image_size: (height, width) that it is made for.
        channels: of an image.
        classes: number of classes.
        names: of the classes; empty if unknown.
        letterbox: whether images keep their aspect ratio in the input.
        nms_kind, beta_nms: how boxes are suppressed, see `nms.suppress`.
        size_step: image sizes are multiples of this many pixels.
    """

    source: str
    image_size: tuple[int, int]
    channels: int
    classes: int
    names: tuple[str, ...] = ()
    letterbox: bool
    nms_kind: str
    beta_nms: float
    size_step: int


@dataclass(frozen=True, kw_only=True)
class DetectingNetwork(Facts):
    """A network with what is needed to get boxes from it.

    Attributes:
        predict: images (B, C, H, W) in 0..1, on any device -> (B, N, 5 + classes): xywh in pixels of the
            images, objectness, class probabilities.
        is_parallel: whether `predict` may be called by several threads at once, each with its share of the
            CPU threads; otherwise it uses all of them itself.
    """

    predict: Predict
    is_parallel: bool = False

    def try_size(self, image_size: tuple[int, int]) -> None:
        """Detect on a black image of (height, width), so that an invalid size is reported at once.

        Raises:
            ToolkitError: the size is invalid.
        """
        with torch.inference_mode():
            self.predict(torch.zeros(1, self.channels, *image_size))


Detecting: TypeAlias = Darknet | DetectingNetwork


def facts_of(network: Detecting) -> Facts:
    """Facts about a network, without making it ready to run.

    Raises:
        CfgError: its heads have different numbers of classes.
    """
    return network if isinstance(network, DetectingNetwork) else Facts(**_facts_of_darknet(network.network))


def detecting(network: Detecting) -> DetectingNetwork:
    """`network` ready to detect; a Darknet as a deployed copy on the same device, see `fused`."""
    if isinstance(network, DetectingNetwork):
        return network
    deployed, specs, device = fused(network), network.head_specs, next(network.parameters()).device

    def predict(images: Tensor) -> Tensor:
        images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        return decode_heads([head.float() for head in deployed(images)], specs)

    facts = _facts_of_darknet(network.network)
    return DetectingNetwork(**facts, predict=predict, is_parallel=device.type == "cpu")


def _facts_of_darknet(network: Network) -> dict[str, Any]:
    heads = [section for section in network.sections if isinstance(section, Head)]
    if len({head.classes for head in heads}) != 1:
        counts = ", ".join(str(head.classes) for head in heads)
        raise CfgError(
            network.source, f"its heads have {counts or 'no'} classes", "give all heads the same number"
        )
    return {
        "source": network.source,
        "image_size": (network.height, network.width),
        "channels": network.channels(-1),
        "classes": heads[0].classes,
        "letterbox": network.letterbox,
        "nms_kind": heads[-1].nms_kind,  # the last head decides, as in the C program
        "beta_nms": heads[-1].beta_nms,
        "size_step": network.size_step,
    }


def of_file(path: Path, runtime: Runtime, cfg: Network | None = None) -> DetectingNetwork:
    """An exported file on its runtime, with the facts from its metadata.

    Args:
        path: of a file with the outputs boxes (B, N, 4), xyxy in pixels, and scores (B, N, classes).
        runtime: that reads it.
        cfg: replaces missing metadata.

    Raises:
        ToolkitError: it cannot be loaded, is not a detector of this kind, or lacks metadata without `cfg`.
    """
    session = runtime.load(path)
    if len(session.sizes) != len(OPEN):
        raise ToolkitError(path, "input is not images (B, C, H, W)", "give the file of a detector")
    facts = _facts_of_file(session.metadata, path, cfg)
    known = (1, facts["channels"], *facts["image_size"])
    shape = tuple(own or said for own, said in zip(session.sizes, known, strict=True))
    facts |= {"source": str(path), "channels": shape[1], "image_size": shape[2:]}
    classes = _classes(_first_run(session, shape, path), path)
    if len(facts["names"]) not in (0, classes):
        fact = f"has {len(facts['names'])} class names, but {classes} classes"
        raise ToolkitError(path, fact, "export the network again with its --data")
    step = None if cfg is None else cfg.size_step
    return DetectingNetwork(**facts | {"classes": classes}, predict=as_predict(session, str(path), step))


def _first_run(session: Session, shape: tuple[int, ...], path: Path) -> Outputs:
    try:
        return warm_up(session, shape)
    except ToolkitError:
        raise
    except Exception as error:  # each runtime's own
        fact = f"cannot be run on images {shape}: {' '.join(str(error).split())}"
        raise ToolkitError(path, fact, "export the network again") from error


def _facts_of_file(metadata: Mapping[str, str], path: Path, cfg: Network | None) -> dict[str, Any]:
    """From the metadata, or from a cfg where it is missing."""
    names = {"names": names_of(metadata, str(path))}
    step = size_step_of(metadata, str(path)) or _STEP
    if said := darknet_of(metadata, str(path)):
        return names | said | {"size_step": step}
    if cfg is None:
        fact = "has no metadata: image size and kind of NMS are unknown"
        raise ToolkitError(path, fact, "add --cfg, or export the network again")
    return _facts_of_darknet(cfg) | names


def _classes(outputs: Outputs, path: Path) -> int:
    """Number of classes; refuses outputs that are not boxes and scores."""
    shapes = [output.shape for output in outputs]
    fits = (
        len(shapes) == 2 and all(len(shape) == 3 for shape in shapes) and shapes[0][1:] == (shapes[1][1], 4)
    )
    if not fits:
        fact = f"its outputs {shapes} are not boxes (B, N, 4) and scores (B, N, classes)"
        raise ToolkitError(path, fact, "export the network without --nms and --raw-heads")
    return int(shapes[1][2])


def as_predict(session: Session, source: str, step: int | None = None) -> Predict:
    """Adapt a session with the outputs boxes and scores to the evaluator.

    Args:
        session: images (B, C, H, W) -> boxes (B, N, 4) xyxy in pixels, scores (B, N, classes). Where it
            takes a fixed number of images, batches are split, and the last is padded with black images.
        source: its name in messages.
        step: dynamic sizes are multiples of this many pixels, for a session without strides in its metadata.

    Returns:
        images (B, C, H, W) in 0..1 -> (B, N, 5 + classes): xywh in pixels, objectness 1, scores; on the CPU.
        Raises ToolkitError for images of a size that the session does not accept.
    """
    count, *_ = session.sizes
    require = size_check(session, source, step)

    def predict(images: Tensor) -> Tensor:
        require(tuple(images.shape))
        given = np.ascontiguousarray(images.float().cpu().numpy())
        step = count or len(given)
        parts = [
            session.infer(_filled(given[start : start + step], step)) for start in range(0, len(given), step)
        ]
        boxes, scores = (
            torch.from_numpy(np.concatenate(part))[: len(given)] for part in zip(*parts, strict=True)
        )
        return predictions_of(boxes, scores)

    return predict


def predictions_of(boxes: Tensor, scores: Tensor) -> Tensor:
    """Outputs of an exported file, (B, N, 4) xyxy and (B, N, classes), as predictions for the evaluator.

    Returns:
        (B, N, 5 + classes): xywh, objectness 1, since the scores include it, and the scores.
    """
    return torch.cat((xyxy_to_xywh(boxes), torch.ones_like(boxes[..., :1]), scores), dim=-1)


def _filled(images: Images, count: int) -> Images:
    missing = count - len(images)
    return np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images


def size_check(session: Session, source: str, step: int | None = None) -> Callable[[tuple[int, ...]], None]:
    """A check that refuses images that a session does not accept; the batch size does not matter.

    Dynamic sizes must be multiples of the largest stride: otherwise feature maps that are combined differ by
    a cell, which some runtimes do not detect. The size that a file was made for is always accepted.

    Args:
        session: that gets the images.
        source: its name in messages.
        step: as for `as_predict`.

    Returns:
        A check of (B, C, H, W), which raises ToolkitError.
    """
    sizes, step = session.sizes, size_step_of(session.metadata, source) or step
    made_for = darknet_of(session.metadata, source).get("image_size")

    def require(shape: tuple[int, ...]) -> None:
        if any(own not in (None, given) for own, given in zip(sizes[1:], shape[1:], strict=True)):
            own, given = (
                "x".join("any" if n is None else str(n) for n in each[1:]) for each in (sizes, shape)
            )
            fact = f"accepts only images of {own} (channels, height, width), not {given}"
            raise ToolkitError(source, fact, "give that size, or export it with --dynamic")
        sides = [side for own, side in zip(sizes[2:], shape[2:], strict=True) if own is None]
        if step and shape[2:] != made_for and any(side % step for side in sides):
            fact = f"its strides do not divide image size {shape[2]}x{shape[3]} (height, width)"
            raise ToolkitError(source, fact, f"use multiples of {step}")

    return require


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a detection.

    Attributes:
        confidence: minimum score, objectness times class probability.
        overlap: a box is removed when its IoU with a better one of its class is larger, see `nms.suppress`.
    """

    confidence: float = 0.25
    overlap: float = 0.45


class Times(NamedTuple):
    """Seconds for one image: preprocessing, network with decoding, NMS."""

    prepare: float
    network: float
    suppress: float


class Detector:
    """A network with preprocessing and NMS, as in Darknet's `detector test`."""

    def __init__(
        self,
        network: Detecting,
        image_size: tuple[int, int],
        thresholds: Thresholds,
        letterbox: bool,
    ) -> None:
        """Prepare a detector; a Darknet is copied as deployed, on the same device.

        Args:
            network: the detector.
            image_size: (height, width) that images are resized to.
            thresholds: of the detections.
            letterbox: keep the aspect ratio of images instead of stretching them.
        """
        self.image_size, self.thresholds, self.letterbox = image_size, thresholds, letterbox
        self._network = detecting(network)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Floats, Times]:
        """Detect on one RGB image (h, w, 3).

        Returns:
            (M, 6): xyxy in pixels of the image, not clipped, score and class, best first; and the times.
        """
        height, width = image.shape[:2]
        start = time.perf_counter()
        pixels = resize_exactly(image, self.image_size, self.letterbox).div_(255)[None]
        ready = time.perf_counter()
        with torch.inference_mode():
            predictions = self._network.predict(pixels)[0]
            if predictions.is_cuda:
                torch.cuda.synchronize()
            run = time.perf_counter()
            placement = place(height, width, self.image_size, self.letterbox)
            boxes = as_fractions(predictions[:, :4], placement, (height, width))
            found = suppress(
                torch.cat((boxes, predictions[:, 4:]), dim=1),
                self.thresholds.confidence,
                self.thresholds.overlap,
                self._network.nms_kind,
                self._network.beta_nms,
            )
        rows = found.cpu().numpy().astype(np.float64)
        rows[:, :4] *= (width, height, width, height)
        return rows, Times(ready - start, run - ready, time.perf_counter() - run)


# Runtimes that read files of a suffix; the first is the default.
READERS: Mapping[str, tuple[str, ...]] = {
    ".onnx": ("onnxruntime", "openvino", "tensorrt"),
    ".xml": ("openvino",),
    ".engine": ("tensorrt",),
    ".ncnn.param": ("ncnn",),
    ".torchscript": ("torch",),
}


def is_exported(path: Path) -> bool:
    """Whether the suffix is one of `READERS`: a file that runs without its cfg.

    >>> is_exported(Path("best.ncnn.param")), is_exported(Path("best.weights"))
    (True, False)
    """
    return path.name.lower().endswith(tuple(READERS))


def readers(path: Path) -> tuple[str, ...]:
    """Names of the runtimes that read an exported file, the default first; empty for other files."""
    return next((names for suffix, names in READERS.items() if path.name.lower().endswith(suffix)), ())


def runtime_of(path: Path, name: str | None = None) -> Runtime:
    """The runtime that reads an exported file.

    Args:
        path: of the file; its suffix decides.
        name: of the runtime; None for the default.

    Raises:
        ToolkitError: no runtime reads it, or this one does not.
    """
    names = readers(path)
    if not names:
        fact = "unsupported kind of file"
        raise ToolkitError(path, fact, f"give one of {', '.join(READERS)}")
    if name is not None and name not in names:
        raise ToolkitError(path, f"{name} does not read this file", f"use {' or '.join(names)}")
    return find_runtime(name or names[0])
