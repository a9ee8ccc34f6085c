"""A Darknet network as a subject of the engine, traced section by section.

`RULES` say what each section type does to channel ids.
Invariants: retracing a narrowed subject gives the channel counts of the mask, and the narrowed tensors load
strictly into a new `Darknet` built from the narrowed cfg.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...darknet import heads, sections
from ...darknet.edit import ResidualBlock, residual_blocks, with_filters, without_blocks
from ...darknet.model import Darknet, section_index
from ...darknet.network import Network
from ...darknet.sections import Connected, Convolutional, Maxpool, Route, Section, Shortcut, Upsample
from ...darknet.weights import write_weights
from ...errors import CfgError, PruningError
from ...files import write_text
from ...pruning.channels import ChannelGraph, ChannelIds, ChannelTracer, UnitMask
from ...pruning.fold import Constant, constants
from ...pruning.narrow import narrow
from ...pruning.policies import candidate_channels
from ...pruning.scores import gamma_scores
from ...pruning.sparsity import GammaPenalty
from ...pruning.subject import Block, LayerScores
from ...pruning.surgery import zero_removed


@dataclass(frozen=True)
class Step:
    """A section, in the order of the network.

    Attributes:
        tracer: records layers, ties and pins.
        network: the whole network.
        index: number of the section.
        ids: number of each earlier section -> ids of its output; -1 is the image.
    """

    tracer: ChannelTracer
    network: Network
    index: int
    ids: Mapping[int, ChannelIds]

    @property
    def section(self) -> Section:
        """The section itself."""
        return self.network[self.index]

    @property
    def name(self) -> str:
        """Its name as a module of `Darknet`."""
        return f"layers.{self.index}"

    @property
    def inputs(self) -> list[ChannelIds]:
        """Ids of its sources, in order."""
        return [self.ids[source] for source in self.network.sources(self.index)]


Rule = Callable[[Step], ChannelIds]


def _convolutional(step: Step) -> ChannelIds:
    section = cast(sections.Convolutional, step.section)
    (inputs,) = step.inputs
    norm = f"{step.name}.norm" if section.batch_normalize else None
    outputs = step.tracer.layer(f"{step.name}.conv", inputs, section.filters, section.groups, norm)
    if section.shared_with is not None:
        lender = section.shared_with
        step.tracer.tie(inputs, step.ids[step.network.sources(lender)[0]], "joint")
        # The same gammas decide, so both are one writer.
        step.tracer.tie(outputs, step.ids[lender], "serial")
    return outputs


def _connected(step: Step) -> ChannelIds:
    section = cast(sections.Connected, step.section)
    _, height, width = step.network.shape(section.sources[0])
    norm = f"{step.name}.norm" if section.batch_normalize else None
    inputs = np.repeat(step.inputs[0], height * width)
    return step.tracer.layer(f"{step.name}.linear", inputs, section.output, norm=norm)


def _batchnorm(step: Step) -> ChannelIds:
    step.tracer.follow(step.name, step.inputs[0])
    return step.inputs[0]


def _shortcut(step: Step) -> ChannelIds:
    first, *others = step.inputs
    for other in others:  # only the overlapping channels are added (shortcut_multilayer_cpu)
        overlap = min(len(first), len(other))
        step.tracer.tie(first[:overlap], other[:overlap])
    if cast(sections.Shortcut, step.section).weights_type == "per_channel":
        step.tracer.follow(f"{step.name}.weights", first, axis=1)
    return first


def _route(step: Step) -> ChannelIds:
    section = cast(sections.Route, step.section)
    # The cfg can say no more than "part group_id of equal parts", so the parts must stay equal.
    parts = (step.tracer.section(ids, section.groups) for ids in step.inputs)
    return np.concatenate([part[section.group_id] for part in parts])


def _gate(step: Step) -> ChannelIds:
    gate, scaled = step.inputs
    if len(gate) == len(scaled):  # not so under scale_wh
        is_gate_alone = len(step.network.readers(step.network.sources(step.index)[0])) == 1
        step.tracer.tie(scaled, gate, "gate" if is_gate_alone else "joint")
    return scaled


def _reorg3d(step: Step) -> ChannelIds:
    stride = cast(sections.Reorg3d, step.section).stride
    return np.tile(step.inputs[0], stride**2)


def _reorg(step: Step) -> ChannelIds:
    # It mixes each run of stride^2 channels, so they are tied.
    runs = step.inputs[0].reshape(-1, cast(sections.Reorg, step.section).stride ** 2)
    for channels in runs.T[1:]:
        step.tracer.tie(runs[:, 0], channels, "joint")
    return _reorg3d(step)


def _pass(step: Step) -> ChannelIds:
    return step.inputs[0]


def _pin(step: Step) -> ChannelIds:
    step.tracer.pin(step.inputs[0], f"{step.name} [{step.section.kind}] needs its channels")
    return step.inputs[0]


RULES: Mapping[type[Section], Rule] = MappingProxyType(
    {
        sections.Convolutional: _convolutional,
        sections.Connected: _connected,
        sections.BatchNorm: _batchnorm,
        sections.Activation: _pass,
        sections.Shortcut: _shortcut,
        sections.Route: _route,
        sections.ScaleChannels: _gate,
        sections.Sam: _gate,
        sections.Dropout: _pass,
        sections.Empty: _pass,
        sections.Softmax: _pin,
        sections.Maxpool: _pass,
        sections.LocalAvgpool: _pass,
        sections.Avgpool: _pass,
        sections.Upsample: _pass,
        sections.Reorg3d: _reorg3d,
        sections.Reorg: _reorg,
        heads.Yolo: _pin,
        heads.GaussianYolo: _pin,
        heads.Region: _pin,
    }
)
# Sections that turn constant channels into constant channels. Reorg does not: it interleaves the constants of
# several channels in one.
TRANSPARENT: frozenset[type[Section]] = frozenset(
    {
        *(sections.Route, sections.Dropout, sections.Empty, sections.BatchNorm, sections.Reorg3d),
        *(sections.Maxpool, sections.LocalAvgpool, sections.Avgpool, sections.Upsample),
    }
)


def trace(network: Network, keep_sections: Sequence[int] = ()) -> ChannelGraph:
    """The channels of `network`; layers and followers are named as the modules of `Darknet`.

    Args:
        network: the network to trace.
        keep_sections: numbers of convolutions whose channels are pinned.

    Raises:
        PruningError: one of these sections is not a convolution.
    """
    tracer = ChannelTracer()
    image = tracer.new(network.channels(-1))
    tracer.pin(image, "channels of the image")
    ids = {-1: image}
    for index, section in enumerate(network.sections):
        ids[index] = RULES[type(section)](Step(tracer, network, index, ids))
        if not network.readers(index):
            tracer.pin(ids[index], f"layers.{index} [{section.kind}] is an output of the network")
    names = [_layer_name(network, index) for index in keep_sections]
    return tracer.finish().pinning(names, "given in --keep-sections")


@dataclass(frozen=True)
class DarknetSubject:
    """A `Darknet` to prune; see `pruning.subject.Subject`.

    Attributes:
        kept: names of layers to keep whole.
    """

    model: Darknet
    graph: ChannelGraph
    kept: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Darknet, keep_sections: Sequence[int] = ()) -> Self:
        """Trace `model`; the convolutions at `keep_sections` keep their width, and their blocks are kept.

        Raises:
            PruningError: a section is not a convolution.
        """
        names = frozenset(_layer_name(model.network, index) for index in keep_sections)
        return cls(model, trace(model.network, keep_sections), names)

    @property
    def network(self) -> Network:
        """The description of the model."""
        return self.model.network

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Residual blocks in order, without those that have no convolution in their branch."""
        found = (_block(self.network, block) for block in residual_blocks(self.network))
        return tuple(block for block in found if block.layers and self.kept.isdisjoint(block.layers))

    @property
    def example(self) -> Tensor:
        """(1, C, H, W) zeros, small if the network accepts that."""
        size = usable_size(self.network, 2 * self.network.size_step)
        return torch.zeros(1, self.network.channels(-1), *size).to(next(self.model.parameters()))

    def constants(self, alive: UnitMask, blocks: Sequence[Block]) -> dict[str, Constant]:
        """Layer name -> the constant at its input, see `fold.constants`."""
        return constants(self.model, self.graph, alive, blocks, self.example)

    def zeroed(self, keep: UnitMask, blocks: Sequence[Block]) -> Self:
        """The same network with removed channels and blocks multiplied by 0, with hooks in `model`."""
        return self.with_model(zero_removed(self.model, self.graph, keep, blocks))

    def with_model(self, model: nn.Module) -> Self:
        """The same structure with the tensors of another model."""
        return replace(self, model=cast(Darknet, model))

    def copied(self) -> Self:
        """The same network with a copy of all tensors."""
        return self.with_model(deepcopy(self.model))

    def narrowed(self, keep: UnitMask) -> Self:
        """A compact copy with the kept channels, built from its own cfg and retraced."""
        network = narrowed_network(self.network, self.graph, keep)
        state = narrow(self.model, self.graph, keep).state_dict()
        return self._rebuilt(network, state, map(section_index, self.kept))

    def shortened(self, blocks: Sequence[Block]) -> Self:
        """A copy without these blocks."""
        if not blocks:
            return self
        gone = {block.name for block in blocks}
        chosen = [b for b in residual_blocks(self.network) if f"layers.{b.shortcut}" in gone]
        network, moved = without_blocks(self.network, chosen)
        state = {}
        for key, tensor in self.model.state_dict().items():
            if section_index(key) in moved:
                _, _, rest = key.split(".", 2)
                state[f"layers.{moved[section_index(key)]}.{rest}"] = tensor
        return self._rebuilt(network, state, (moved[section_index(name)] for name in self.kept))

    def save(self, cfg: Path, weights: Path) -> None:
        """Write both files; each is complete or not written at all."""
        write_text(cfg, self.network.to_cfg())
        write_weights(weights, self.model, self.model.header)

    def _rebuilt(self, network: Network, state: Mapping[str, Tensor], kept: Iterable[int]) -> Self:
        model = Darknet(network, initialise=False).to(next(self.model.parameters()))
        model.load_state_dict(state, strict=True)
        model.header = self.model.header
        return type(self).of(model.train(self.model.training), sorted(kept))


def narrowed_network(network: Network, graph: ChannelGraph, keep: UnitMask) -> Network:
    """The description without the removed channels; `keep` must be legal for its `graph`."""
    layers = {section_index(name): layer for name, layer in graph.layers.items()}
    filters = {index: int(keep[layer.outputs].sum()) for index, layer in layers.items()}
    groups = {index: int(keep[layer.inputs].sum()) for index, layer in layers.items() if layer.depthwise}
    return with_filters(network, filters, groups)


def usable_size(network: Network, wanted: int) -> tuple[int, int]:
    """(height, width): `wanted` pixels square if the network takes such an input, else its own size."""
    own = network.height, network.width
    # Cells must be whole pixels; a map larger than the image has cells smaller than a pixel.
    if any(wanted % max(1, network.stride(head)) for head in network.heads):
        return own
    try:
        network.shapes_at(wanted, wanted)
    except CfgError:
        return own
    return wanted, wanted


def _layer_name(network: Network, index: int) -> str:
    if index >= len(network):
        fact = f"has no section {index}"
        raise PruningError(network.source, fact, f"the last one is {len(network) - 1}")
    if not isinstance(network[index], Convolutional | Connected):
        fact = "has no channels of its own to keep"
        raise PruningError(network.place(index), fact, "give the convolution before it")
    return _with_weights(network, index)


def _with_weights(network: Network, index: int) -> str:
    return f"layers.{index}.{'conv' if isinstance(network[index], Convolutional) else 'linear'}"


def classic_candidates(network: Network) -> frozenset[str]:
    """Layers that the published programs may prune: convolutions with batch norm, except directly before an
    upsample, before a max-pool that is directly before a route (SPP), or before a route with groups.
    """
    names = set()
    for index, section in enumerate(network.sections):
        if isinstance(section, Convolutional) and section.batch_normalize:
            behind = [*network.sections[index + 1 : index + 3], None, None]
            excluded = (
                isinstance(behind[0], Upsample)
                or (isinstance(behind[0], Maxpool) and isinstance(behind[1], Route))
                or (isinstance(behind[0], Route) and behind[0].groups > 1)
            )
            if not excluded:
                names.add(f"layers.{index}.conv")
    return frozenset(names)


def classic_scores(subject: DarknetSubject) -> LayerScores:
    """|gamma| of the published candidates only; layers without a score stay whole."""
    candidates = classic_candidates(subject.network)
    return {name: values for name, values in gamma_scores(subject).items() if name in candidates}


def gamma_penalty(model: Darknet, s: float, prune: Literal[0, 1], classic: bool = False) -> GammaPenalty:
    """The sparsity penalty on exactly the gammas that pruning will score.

    Args:
        model: the network in training.
        s: weight of the penalty.
        prune: 0 for the candidates of prune.py (no shortcuts), 1 for those of slim_prune.py.
        classic: whether to use the smaller set of the published programs.
    """
    subject = DarknetSubject.of(model)
    scores = classic_scores(subject) if classic else gamma_scores(subject)
    channels = candidate_channels(subject.graph, scores, "all" if prune else "uncoupled")
    norms: dict[str, nn.BatchNorm2d] = {}
    for name in channels:
        norm = cast(nn.BatchNorm2d, model.get_submodule(cast(str, subject.graph.layers[name].norm)))
        if norm not in norms.values():  # convolutions may share one (share_index)
            norms[name] = norm
    return GammaPenalty(norms, s, channels)


def _block(network: Network, block: ResidualBlock) -> Block:
    branch = (index for index in block.branch if isinstance(network[index], Convolutional | Connected))
    layers = tuple(_with_weights(network, index) for index in branch)
    travels = block.activation == "linear" and _reaches_linear_readers_only(network, block.shortcut)
    return Block(f"layers.{block.shortcut}", layers, f"layers.{block.branch[-1]}", travels)


def _reaches_linear_readers_only(network: Network, index: int) -> bool:
    """Whether a constant added to section `index` passes only adds, routes and pools to convolutions."""
    waiting, seen = [index], {index}
    while waiting:
        for reader in network.readers(waiting.pop()):
            section = network[reader]
            if isinstance(section, Convolutional | Connected) or reader in seen:
                continue
            linear_add = isinstance(section, Shortcut) and section.activation == "linear"
            if not linear_add and type(section) not in TRANSPARENT:
                return False
            seen.add(reader)
            waiting.append(reader)
    return True
