"""Rules: what each section type of Darknet does to channel ids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np

from ...darknet import heads, sections
from ...darknet.network import Network
from ...darknet.sections import Section
from ...pruning.channels import ChannelIds, ChannelTracer


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
