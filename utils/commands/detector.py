"""Detection on a single image, from pixels to boxes."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.images import place, resize_exactly
from ..detection.boxes import suppress
from ..detection.evaluator import as_fractions
from ..runtimes.detecting import Detecting, detecting

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
