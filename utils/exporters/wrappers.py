"""Wrappers that give a network its exported outputs: boxes and scores, or the raw heads.

Boxes and scores are two outputs: in one tensor, the boxes' pixels would decide the int8 range, with no levels
left for the scores.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ..detection.boxes import xywh_to_xyxy
from ..detection.decode import HeadSpec, decode_heads

Axes = dict[int, str]


class BoxesAndScores(nn.Module):
    """A detector with its decoding, as two plain outputs.

    Args:
        model: images (B, C, H, W) in 0..1 -> raw heads (B, A, h, w, width).
        specs: one for each head.
    """

    def __init__(self, model: nn.Module, specs: Sequence[HeadSpec]) -> None:
        super().__init__()
        self.model = model
        self.specs = tuple(specs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) as xyxy in pixels of `images`; scores (B, N, classes), objectness times class."""
        decoded = decode_heads(self.model(images), self.specs)
        return xywh_to_xyxy(decoded[..., :4]), decoded[..., 4:5] * decoded[..., 5:]

    @property
    def outputs(self) -> dict[str, Axes]:
        """Names of the outputs, in order, and those of their axes that depend on batch and size."""
        return {name: {0: "batch", 1: "count"} for name in ("boxes", "scores")}


class RawHeads(nn.Module):
    """A detector without decoding: the values of its heads before any sigmoid.

    Args:
        model: as for `BoxesAndScores`.
        heads: how many heads it has.
    """

    def __init__(self, model: nn.Module, heads: int) -> None:
        super().__init__()
        self.model = model
        self.heads = heads

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """For each head (B, A, h, w, width), as `decode_heads` takes them."""
        return tuple(self.model(images))

    @property
    def outputs(self) -> dict[str, Axes]:
        """Names of the outputs, in order, and those of their axes that depend on batch and size."""
        return {f"head_{index}": _head_axes(index) for index in range(self.heads)}


def _head_axes(index: int) -> Axes:
    return {0: "batch", 2: f"rows_{index}", 3: f"columns_{index}"}


Wrapper = BoxesAndScores | RawHeads
