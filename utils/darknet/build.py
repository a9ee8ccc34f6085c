"""From a typed section to its nn.Module."""

import math
from collections.abc import Sequence

from torch import nn

from . import heads, modules, resampling, resampling_modules, sections
from .sections import Section, Shape


def build(section: Section, inputs: Sequence[Shape], built: Sequence[nn.Module]) -> nn.Module:
    """The module of one section.

    Args:
        section: what to build.
        inputs: shapes of its sources, in order; sizes count for [connected] alone.
        built: the modules of the sections before it, since a convolution may share another's weights.
    """
    channels = [shape.channels for shape in inputs]
    match section:
        case sections.Convolutional():
            lender = None if section.shared_with is None else built[section.shared_with]
            assert lender is None or isinstance(lender, modules.ConvBlock)
            return modules.ConvBlock(section, channels[0], lender)
        case sections.Connected():
            return modules.ConnectedBlock(section, math.prod(inputs[0]))
        case sections.BatchNorm():
            return nn.BatchNorm2d(channels[0], eps=modules.BATCH_NORM_EPS)
        case sections.Activation():
            return modules.ACTIVATIONS[section.activation]()
        case sections.Shortcut():
            return modules.Shortcut(section, channels)
        case sections.Route():
            return modules.Route(section, channels)
        case sections.ScaleChannels() | sections.Sam():
            return modules.Gate(section)
        case sections.Dropout():
            return nn.Dropout(section.probability)
        case sections.Empty():
            return nn.Identity()
        case sections.Softmax():
            return modules.Softmax(section)
        case heads.Head():
            return modules.RawHead(section)
    return _resampling(section)


def _resampling(section: Section) -> nn.Module:
    match section:
        case resampling.Maxpool():
            return resampling_modules.Maxpool(section)
        case resampling.LocalAvgpool():
            return resampling_modules.LocalAvgpool(section)
        case resampling.Avgpool():
            return nn.AdaptiveAvgPool2d(1)
        case resampling.Upsample():
            return resampling_modules.Upsample(section)
        case resampling.Reorg():
            return resampling_modules.Reorg(section)
        case resampling.Reorg3d():
            return resampling_modules.Reorg3d(section)
    raise TypeError(f"no module for {type(section).__name__}")
