"""The network as an nn.Module: the modules of all sections, run in order.

Invariant: the names in `Darknet(network).state_dict()` depend on the network alone:
`layers.{section number}.conv.weight`, `.norm.weight`, ...
"""

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..detection.decode import HeadKind, HeadSpec
from ..errors import CfgError, ToolkitError
from .edit import residual_blocks
from .heads import GaussianYolo, Head, Region, Yolo
from .modules import ConvBlock, RawHead, build
from .network import Network, detached
from .weights import WeightsHeader

KINDS: Mapping[type[Head], HeadKind] = MappingProxyType(
    {Yolo: "yolo", GaussianYolo: "gaussian_yolo", Region: "region"}
)
# Few cells hold an object: starting there spares training the first epochs (Lin et al. 2017, section 4.1).
OBJECTNESS_PRIOR = 0.01
# Small enough that fresh heads predict their priors everywhere.
HEAD_WEIGHT_STD = 0.01
# Goyal et al. 2017, section 5.1, use 0; 0.1 learned as fast, and gives each branch a gradient at once.
BRANCH_GAMMA = 0.1


class Darknet(nn.Module):
    """A Darknet detector.

    Attributes:
        network: its description.
        layers: one module for each section, so that indices are Darknet's layer numbers.
        head_specs: how to decode each head, in cfg order.
        header: of the weights it holds.
    """

    def __init__(self, network: Network, initialise: bool = True) -> None:
        """Build `network`; without `initialise` the convolutions' weights are uninitialised memory."""
        super().__init__()
        self.network = network
        self.header = WeightsHeader()
        layers: list[nn.Module] = []
        for section in network.sections:
            layers.append(build(section, [network.shape(source) for source in section.sources], layers))
        self.layers = nn.ModuleList(layers)
        self.head_specs = tuple(_head_spec(network, head) for head in network.heads)
        self._finished = tuple(_finished_at(network))
        self._detached = detached(network)
        self._fitting_sizes = {(network.height, network.width)}
        if initialise:
            self.initialise()

    @classmethod
    def from_cfg(cls, path: str | Path) -> "Darknet":
        """Build the network of a cfg file with new random weights.

        Raises:
            CfgError: see `Network.from_cfg`.
        """
        return cls(Network.from_cfg(path))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the raw heads.

        Args:
            images: (B, channels, H, W) in 0..1, RGB; any H and W that the strides allow.

        Returns:
            For each head in cfg order (B, anchors, h, w, width): the map that enters the head's section,
            before any sigmoid; width is 5 + classes, 9 + classes for [Gaussian_yolo].

        Raises:
            ToolkitError: the images have another number of channels, or a size at which maps do not fit.
        """
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling() or _is_traced(images)):
            self._check_images(images)
        outputs = {-1: images}
        heads = []
        for index, layer in enumerate(self.layers):
            output = layer(*(outputs[source] for source in self.network.sources(index)))
            if index in self._detached and self.training:
                output = output.detach()
            if isinstance(layer, RawHead):
                heads.append(output)
            else:
                outputs[index] = output
            for finished in self._finished[index]:
                del outputs[finished]
        return heads

    def _check_images(self, images: Tensor) -> None:
        wanted = self.network.channels(-1)
        if images.dim() != 4 or images.shape[1] != wanted:
            fact = f"images of shape {tuple(images.shape)} do not fit the network"
            raise ToolkitError(self.network.source, fact, f"give (batch, {wanted}, height, width)")
        height, width = images.shape[2:]
        if (height, width) in self._fitting_sizes:
            return
        try:
            self.network.shapes_at(height, width)
            self._require_whole_cells(height, width)
            self._fitting_sizes.add((height, width))
        except CfgError as error:
            fact = f"images of {width}x{height} do not fit: {error.fact}"
            remedy = f"use multiples of {self.network.size_step}"
            raise ToolkitError(error.place, fact, remedy) from None

    def _require_whole_cells(self, height: int, width: int) -> None:
        """Refuse a size at which a cell is not `stride` pixels, so that boxes would be displaced."""
        for head, spec in zip(self.network.heads, self.head_specs, strict=True):
            if spec.cell is None and (height % spec.stride or width % spec.stride):
                fact = f"{width}x{height} is not divisible into cells of {spec.stride} pixels"
                raise CfgError(self.network.place(head), fact)

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise the weights for training from scratch.

        Kaiming for a leaky slope of 0.1; heads predict `OBJECTNESS_PRIOR` and equally likely classes;
        residual branches start small, `BRANCH_GAMMA`, so that a deep network begins as a shallow one.
        """
        head_of = {self.network.sources(head)[0]: head for head in self.network.heads}
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, ConvBlock) or layer.shared or layer.conv.weight.is_meta:
                continue
            head = head_of.get(index)
            if layer.conv.bias is not None:
                layer.conv.bias.zero_()
            if head is None or layer.conv.bias is None:
                nn.init.kaiming_normal_(layer.conv.weight, a=0.1)
            else:
                nn.init.normal_(layer.conv.weight, std=HEAD_WEIGHT_STD)
                self._set_priors(layer.conv.bias, self.network[head])
        for block in residual_blocks(self.network):
            last = self.layers[block.branch[-1]]
            if isinstance(last, ConvBlock) and last.norm is not None:
                last.norm.weight.fill_(BRANCH_GAMMA)

    @staticmethod
    def _set_priors(bias: Tensor, section: object) -> None:
        assert isinstance(section, Head)
        columns = bias.view(len(section.mask), section.width)
        columns[:, section.box_values] = _logit(OBJECTNESS_PRIOR)
        if not isinstance(section, Region):  # its softmax is even at zero
            columns[:, section.box_values + 1 :] = _logit(min(0.5, 1 / section.classes))


def section_index(name: str) -> int:
    """Number of the section that a module or tensor belongs to.

    >>> section_index("layers.12.conv")
    12
    """
    return int(name.split(".")[1])


def _is_traced(images: object) -> bool:
    """Whether torch.fx is tracing, with a proxy in place of the images."""
    return isinstance(images, fx.Proxy)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _head_spec(network: Network, index: int) -> HeadSpec:
    section = network[index]
    assert isinstance(section, Head)
    _, rows, columns = network.shape(index)
    stride, cell = network.stride(index), (network.width / columns, network.height / rows)
    # Region's anchors are in cells.
    scale = cell if isinstance(section, Region) else (1.0, 1.0)
    anchors = (section.anchors[number] for number in section.mask)
    return HeadSpec(
        anchors=tuple((width * scale[0], height * scale[1]) for width, height in anchors),
        classes=section.classes,
        stride=stride,
        scale_x_y=section.scale_x_y,
        new_coords=section.new_coords,
        nms_kind=section.nms_kind,
        beta_nms=section.beta_nms,
        ignore_thresh=section.ignore_thresh,
        cell=None if cell == (stride, stride) else cell,
        kind=KINDS[type(section)],
    )


def _finished_at(network: Network) -> Iterator[tuple[int, ...]]:
    """For each section, the outputs that are not read after it has run, possibly its own."""
    last = {index: max(network.readers(index), default=index) for index in range(-1, len(network))}
    for index, section in enumerate(network.sections):
        finished = [source for source in dict.fromkeys(section.sources) if last[source] == index]
        if not network.readers(index) and not isinstance(section, Head):
            finished.append(index)
        yield tuple(finished)


_IN_PLACE = (nn.LeakyReLU, nn.ReLU, nn.SiLU, nn.Mish)


def fused(model: Darknet) -> Darknet:
    """A copy of `model` with fused batch norms, channels last, in evaluation mode: it cannot be saved."""
    copy = deepcopy(model).eval()
    for layer in copy.layers:
        if isinstance(layer, ConvBlock) and layer.norm is not None:
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            layer.norm = None
        if isinstance(layer, ConvBlock) and isinstance(layer.activation, _IN_PLACE):
            layer.activation.inplace = True  # nothing else reads the convolution's own output
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub


def deployed_run(model: Darknet, image_size: tuple[int, int]) -> Callable[[], object]:
    """One inference of `fused(model)` on a random image of (height, width), to be timed."""
    return inference(fused(model), image_size)


def inference(deployed: Darknet, image_size: tuple[int, int]) -> Callable[[], object]:
    """One inference of a fused network on a random image of (height, width), to be timed."""
    device = next(deployed.parameters()).device
    image = torch.rand(1, deployed.network.channels(-1), *image_size, device=device)
    image = image.to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return deployed(image)

    return run
