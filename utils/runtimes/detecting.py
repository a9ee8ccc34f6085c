"""What detects, whatever computes it: a Darknet in torch, or an exported file on its runtime.

Invariant: `predict` gives decoded boxes as `decode_heads` does, so detecting and evaluating need not know
which of the two it is. A file's scores are objectness times class; its predictions have an objectness of 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..darknet.fuse import fused
from ..darknet.heads import Head
from ..darknet.model import Darknet
from ..darknet.network import Network
from ..detection.boxes import xyxy_to_xywh
from ..detection.decode import decode_heads
from ..detection.evaluator import Predict
from ..errors import CfgError, ToolkitError
from .runtime import OPEN, Images, Outputs, Runtime, Session, warm_up
from .texts import darknet_of, names_of, size_step_of

_STEP = 32  # pixels; strides of a file that says nothing


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one must know of a network to give it images and to use its boxes.

    Attributes:
        source: what messages call it.
        image_size: (height, width) that it is meant for.
        channels: of an image.
        classes: how many.
        names: of the classes; empty where they are not known.
        letterbox: whether images keep their aspect in the input.
        nms_kind, beta_nms: how boxes are suppressed, see `nms.suppress`.
        size_step: pixels by which sizes may differ.
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
    """A network as those see it who only want boxes.

    Attributes:
        predict: images (B, C, H, W) in 0..1, wherever they are -> (B, N, 5 + classes): xywh in pixels of the
            images, objectness, class probabilities.
        is_parallel: whether `predict` may be called by several threads at once, each with its share of the
            processor; else it has all of it by itself.
    """

    predict: Predict
    is_parallel: bool = False

    def try_size(self, image_size: tuple[int, int]) -> None:
        """Detect on a black image of (height, width), so that a size that does not fit is told at once.

        Raises:
            ToolkitError: it does not.
        """
        with torch.inference_mode():
            self.predict(torch.zeros(1, self.channels, *image_size))


Detecting = Darknet | DetectingNetwork


def facts_of(network: Detecting) -> Facts:
    """What is known of a network, without making it ready to run.

    Raises:
        CfgError: its heads have different numbers of classes.
    """
    return network if isinstance(network, DetectingNetwork) else Facts(**_facts_of_darknet(network.network))


def detecting(network: Detecting) -> DetectingNetwork:
    """`network` ready to detect; of a Darknet a deployed copy, where it is, see `fused`."""
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
        raise CfgError(network.source, f"its heads have {counts or 'no'} classes", "give all the same number")
    return {
        "source": network.source,
        "image_size": (network.height, network.width),
        "channels": network.channels(-1),
        "classes": heads[0].classes,
        "letterbox": network.letterbox,
        "nms_kind": heads[-1].nms_kind,  # the last head says it, as in the C program
        "beta_nms": heads[-1].beta_nms,
        "size_step": network.size_step,
    }


def of_file(path: Path, runtime: Runtime, cfg: Network | None = None) -> DetectingNetwork:
    """An exported file on its runtime, with what its texts say of it.

    Args:
        path: of a file with the outputs boxes (B, N, 4), xyxy in pixels, and scores (B, N, classes).
        runtime: that reads it.
        cfg: stands in for a file that does not say what it is.

    Raises:
        ToolkitError: it cannot be loaded, or is no detector of this kind, or says too little without `cfg`.
    """
    session = runtime.load(path)
    if len(session.sizes) != len(OPEN):
        raise ToolkitError(path, "does not take images (B, C, H, W)", "give the file of a detector")
    facts = _facts_of_file(session.texts, path, cfg)
    known = (1, facts["channels"], *facts["image_size"])
    shape = tuple(own or said for own, said in zip(session.sizes, known, strict=True))
    facts |= {"source": str(path), "channels": shape[1], "image_size": shape[2:]}
    classes = _classes(_first_run(session, shape, path), path)
    if len(facts["names"]) not in (0, classes):
        fact = f"names {len(facts['names'])} classes, and has {classes}"
        raise ToolkitError(path, fact, "export the network anew with its --data")
    step = None if cfg is None else cfg.size_step
    return DetectingNetwork(**facts | {"classes": classes}, predict=as_predict(session, str(path), step))


def _first_run(session: Session, shape: tuple[int, ...], path: Path) -> Outputs:
    try:
        return warm_up(session, shape)
    except ToolkitError:
        raise
    except Exception as error:  # each runtime's own
        fact = f"cannot be run on images {shape}: {' '.join(str(error).split())}"
        raise ToolkitError(path, fact, "export the network anew") from error


def _facts_of_file(texts: Mapping[str, str], path: Path, cfg: Network | None) -> dict[str, Any]:
    """Those of the texts, or of a cfg where there are none."""
    names = {"names": names_of(texts, str(path))}
    step = size_step_of(texts, str(path)) or _STEP
    if said := darknet_of(texts, str(path)):
        return names | said | {"size_step": step}
    if cfg is None:
        fact = "does not say its image size and how its boxes are suppressed"
        raise ToolkitError(path, fact, "add --cfg, or export the network anew")
    return _facts_of_darknet(cfg) | names


def _classes(outputs: Outputs, path: Path) -> int:
    """How many; refuses what is not boxes and scores."""
    shapes = [output.shape for output in outputs]
    fits = (
        len(shapes) == 2 and all(len(shape) == 3 for shape in shapes) and shapes[0][1:] == (shapes[1][1], 4)
    )
    if not fits:
        fact = f"its outputs {shapes} are not boxes (B, N, 4) and scores (B, N, classes)"
        raise ToolkitError(path, fact, "export the network without --nms and --raw-heads")
    return int(shapes[1][2])


def as_predict(session: Session, source: str, step: int | None = None) -> Predict:
    """A session with the outputs boxes and scores as what the evaluator calls.

    Args:
        session: images (B, C, H, W) -> boxes (B, N, 4) xyxy in pixels, scores (B, N, classes). Where it
            takes a fixed number of images, batches are cut to that, the last filled up with black.
        source: what messages call it.
        step: pixels by which open sizes may differ, of a session that does not say its strides.

    Returns:
        images (B, C, H, W) in 0..1 -> (B, N, 5 + classes): xywh in pixels, objectness 1, scores; on the CPU.
        Raises ToolkitError for images of a size that the session does not take.
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
    """What an exported file puts out, (B, N, 4) xyxy and (B, N, classes), as the evaluator takes predictions.

    Returns:
        (B, N, 5 + classes): xywh, objectness 1, since the scores hold it already, and the scores.
    """
    return torch.cat((xyxy_to_xywh(boxes), torch.ones_like(boxes[..., :1]), scores), dim=-1)


def _filled(images: Images, count: int) -> Images:
    missing = count - len(images)
    return np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images


def size_check(session: Session, source: str, step: int | None = None) -> Callable[[tuple[int, ...]], None]:
    """What refuses images that a session does not take; how many there are is no matter.

    Where sizes are open, they must be multiples of the largest stride: of others, maps that meet differ by
    a cell, which some runtimes do not notice. The size that a file was made for is its own business.

    Args:
        session: whose images they are.
        source: what messages call it.
        step: as for `as_predict`.

    Returns:
        A check of (B, C, H, W), which raises ToolkitError.
    """
    sizes, step = session.sizes, size_step_of(session.texts, source) or step
    made_for = darknet_of(session.texts, source).get("image_size")

    def require(shape: tuple[int, ...]) -> None:
        if any(own not in (None, given) for own, given in zip(sizes[1:], shape[1:], strict=True)):
            own, given = (
                "x".join("any" if n is None else str(n) for n in each[1:]) for each in (sizes, shape)
            )
            fact = f"takes images of {own} (channels, height, width) alone, not {given}"
            raise ToolkitError(source, fact, "give that size, or export it with --dynamic")
        sides = [side for own, side in zip(sizes[2:], shape[2:], strict=True) if own is None]
        if step and shape[2:] != made_for and any(side % step for side in sides):
            fact = f"its strides do not divide images of {shape[2]}x{shape[3]} (height, width)"
            raise ToolkitError(source, fact, f"use multiples of {step}")

    return require
