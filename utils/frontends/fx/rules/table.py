"""The table of rules: operation -> rule, which says what the operation does to the labels of its tensors.

Keys are what fx calls: a module type, a function, or the name of a tensor method. An operation without a rule
pins the channels that it reads.
"""

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ....pruning.layers import BATCH_NORMS, CONVOLUTIONS, INSTANCE_NORMS, ChannelSelection
from ..call import Rule
from .compute import (
    added,
    channelwise,
    combined,
    follow,
    group_norm,
    layer,
    layer_norm,
    multiplied,
    prelu,
    reduced,
    same,
    selection,
    softmax,
)
from .shape import chunk, expanded_as, item, moved, pad, pixels, reshaped, split_sizes

_POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Threshold,
    nn.Identity, nn.Dropout, nn.AlphaDropout,
)  # fmt: skip
_WITHIN_CHANNELS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d,
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.Dropout1d,
    nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_UNARY = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.hardtanh, F.hardswish,
    F.hardsigmoid, F.softplus, F.dropout, torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.exp,
    torch.sqrt, torch.neg, operator.neg, operator.pos, torch.clone, torch.ones_like, torch.zeros_like,
)  # fmt: skip
_UNARY_METHODS = (
    "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "abs", "exp", "sqrt", "neg", "clone",
    "contiguous", "detach", "to", "float", "half", "double", "type_as", "cpu", "cuda",
)  # fmt: skip
_SEVERAL = (
    operator.truediv, operator.pow, operator.gt, operator.lt, operator.ge, operator.le, torch.div, torch.pow,
    torch.maximum, torch.minimum, torch.where, torch.clamp, "div", "div_", "pow", "clamp", "clamp_",
    "clamp_min",
)  # fmt: skip
_MOVING = (
    torch.cat,
    torch.stack,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.flatten,
    torch.flip,
)
_MOVING_METHODS = (
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "flatten",
    "repeat",
    "flip",
    "t",
    "movedim",
)

RULES: Mapping[Any, Rule] = MappingProxyType(
    dict.fromkeys((nn.Linear, *CONVOLUTIONS), layer)
    | dict.fromkeys((*BATCH_NORMS, *INSTANCE_NORMS), follow)
    | dict.fromkeys(_POINTWISE, same)
    | dict.fromkeys(_WITHIN_CHANNELS, channelwise)
    | dict.fromkeys((*_UNARY, *_UNARY_METHODS), same)
    | dict.fromkeys((*_MOVING, *_MOVING_METHODS, nn.Flatten, nn.PixelUnshuffle, F.pixel_unshuffle), moved)
    | dict.fromkeys((nn.PixelShuffle, F.pixel_shuffle), pixels)
    | dict.fromkeys((operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub), added)
    | dict.fromkeys(("add", "add_", "sub", "sub_"), added)
    | dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), multiplied)
    | dict.fromkeys(_SEVERAL, combined)
    | dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin, "mean", "sum", "amax", "amin"), reduced)
    | dict.fromkeys((nn.Softmax, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, "softmax"), softmax)
    | dict.fromkeys((F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d), channelwise)
    | dict.fromkeys((F.interpolate, F.dropout2d, torch.max_pool2d), channelwise)
    | dict.fromkeys(("view", "reshape", "expand", torch.reshape), reshaped)
    | {"expand_as": expanded_as}
    | dict.fromkeys(("view_as", "reshape_as"), moved)
    | dict.fromkeys((torch.chunk, "chunk"), chunk)
    | dict.fromkeys((torch.split, "split"), split_sizes)
    | {
        nn.PReLU: prelu,
        nn.GroupNorm: group_norm,
        nn.LayerNorm: layer_norm,
        F.pad: pad,
        operator.getitem: item,
    }
    | {ChannelSelection: selection}
)
