"""What became of any network, in figures; prints itself."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerChange:
    """A layer: its kind, its output channels before and after, and how many of them could not go."""

    name: str
    kind: str
    before: int
    after: int
    pinned: int


@dataclass(frozen=True)
class SlimReport:
    """A pruning.

    Attributes:
        layers: in the order of the network.
        parameters: learnable values before and after.
        macs: multiply-adds of one example before and after, of convolutions and linear layers.
        difference: largest difference between the zeroed and the pruned network over the largest output, in
            float64.
        not_followed: operations whose channels could not be followed, so that they stay.
        pins: why channels stay.
        unfolded: layers that lost the constants of removed channels.
        limits: what the pruned network cannot do that the given one could.
    """

    layers: tuple[LayerChange, ...]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    difference: float
    not_followed: tuple[str, ...]
    pins: tuple[str, ...]
    unfolded: tuple[str, ...]
    limits: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [
            f"{layer.name:<{width}}  {layer.before:>5} -> {layer.after:<5} {layer.kind}"
            + (f", {layer.pinned} stay in any case" if layer.pinned else "")
            for layer in self.layers
        ]
        for name, (before, after) in (("parameters", self.parameters), ("multiply-adds", self.macs)):
            lines.append(f"{name}: {before:,} -> {after:,} ({after / max(1, before):.1%})")
        lines.append(f"zeroed / pruned: {self.difference:.1e} of the largest output, float64")
        lines += [f"not followed: {text}" for text in self.not_followed]
        lines += [f"constants lost at: {', '.join(self.unfolded)}"] if self.unfolded else []
        lines += [f"limit: {text}" for text in self.limits]
        return "\n".join(lines)
