"""Which rule an operation has; of those that are not here, views and pointwise ones have one of their own."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket

from ....errors import PruningError
from ..run import Rule
from .axes import STATISTICS, along, padded, reduced, unfolded, windows
from .shape import (
    ORDERED,
    cat,
    embedded,
    gated,
    indexed,
    move,
    restrided,
    selected,
    shuffled,
    stack,
)
from .values import (
    attention,
    batch_norm,
    convolution,
    elementwise,
    group_norm,
    layer_norm,
    matrix,
    passed,
    written,
)

aten = torch.ops.aten
_MOVERS = frozenset(
    {
        aten._unsafe_view, aten.reshape, aten.repeat, aten.roll, aten.flip, aten.pixel_shuffle,
        aten.pixel_unshuffle, aten.split, aten.split_with_sizes, aten.unbind, aten.lift_fresh,
    }
)  # fmt: skip
_SAME = frozenset(
    {
        aten.clone, aten.contiguous, aten._to_copy, aten.detach, aten.alias, aten.dropout, aten.hardswish_,
        aten.hardswish, aten.relu_, aten.elu_, aten.gelu, aten.copy, aten.hardtanh_, aten.hardtanh,
        aten.native_dropout, aten.celu_, aten.leaky_relu_, aten.silu_, aten.mish_, aten.threshold_,
        aten.sigmoid_, aten.tanh_, aten.clamp_, aten.clamp_min_, aten.clamp_max_, aten.hardsigmoid_,
        aten.zero_, aten.fill_, aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like,
        aten.rand_like, aten.randn_like, aten.bernoulli_, aten.nan_to_num_, aten.abs_, aten.exp_,
        aten.neg_, aten.sqrt_, aten.rsqrt_, aten.square_,
    }
)  # fmt: skip
_WINDOWS = frozenset(
    {
        aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.max_pool1d, aten.max_pool2d,
        aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d,
        aten._adaptive_avg_pool3d, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
        aten.adaptive_avg_pool1d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
        aten.upsample_linear1d, aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_trilinear3d,
        aten._upsample_nearest_exact2d, aten._upsample_bilinear2d_aa, aten._upsample_bicubic2d_aa,
        aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d, aten.replication_pad1d,
        aten.replication_pad2d, aten.replication_pad3d, aten.grid_sampler_2d,
    }
)  # fmt: skip
_REDUCTIONS = frozenset(
    {
        aten.mean, aten.sum, aten.var, aten.std, aten.var_mean, aten.std_mean, aten.amax, aten.amin, aten.max,
        aten.min, aten.argmax, aten.argmin, aten.linalg_vector_norm, aten.norm, aten.logsumexp, aten.prod,
        aten.any, aten.all, aten.median, aten.mode,
    }
)  # fmt: skip
_BATCH_NORMS = frozenset(
    {
        aten.native_batch_norm, aten.cudnn_batch_norm, aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_no_training, aten._batch_norm_with_update, aten._batch_norm_no_update,
    }
)  # fmt: skip
_ALONG = frozenset(
    {aten._softmax, aten._log_softmax, aten._safe_softmax, aten.cumsum, aten.cumprod, aten.sort}
)
_FACTORIES = frozenset({aten.new_full, aten.new_zeros, aten.new_ones, aten.new_empty, aten.sym_size})
PRODUCTS = frozenset(
    {
        aten.index_select, aten.convolution, aten.mm, aten.bmm, aten.addmm, aten.baddbmm,
        aten._scaled_dot_product_flash_attention_for_cpu, aten.native_layer_norm, aten.native_group_norm,
        *STATISTICS,
    }
)  # fmt: skip
RULES: Mapping[Any, Rule] = MappingProxyType(
    {
        aten.convolution: convolution,
        **dict.fromkeys((aten.mm, aten.bmm, aten.addmm, aten.baddbmm), matrix),
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten.as_strided_: restrided,
        "view": move,
        "pointwise": elementwise,
        **dict.fromkeys(ORDERED, move),
        aten._prelu_kernel: elementwise,
        aten.embedding: embedded,
        aten.channel_shuffle: shuffled,
        aten.native_channel_shuffle: shuffled,
        aten.glu: gated,
        aten.im2col: unfolded,
        aten.cat: cat,
        aten.stack: stack,
        aten.index: indexed,
        aten.index_select: selected,
        aten.constant_pad_nd: padded,
        **dict.fromkeys(_BATCH_NORMS, batch_norm),
        aten.native_group_norm: group_norm,
        aten.native_layer_norm: layer_norm,
        aten.copy_: written,
        **dict.fromkeys(_ALONG, along),
        **dict.fromkeys(_WINDOWS, windows),
        **dict.fromkeys(_REDUCTIONS, reduced),
        **dict.fromkeys(_SAME, passed),
        **dict.fromkeys(_MOVERS, move),
        **dict.fromkeys(_FACTORIES, lambda _: {}),
    }
)  # fmt: skip


def rules_of(more: Mapping[Any, Rule]) -> Mapping[Any, Rule]:
    """The rules of this table with more of the user's: operation, or type of modules -> its rule.

    Raises:
        PruningError: a key is neither, or what it has is not a function.
    """
    if not more:
        return RULES
    found = dict(RULES)
    for key, rule in more.items():
        is_type = isinstance(key, type) and issubclass(key, nn.Module)
        if not is_type and not isinstance(key, OpOverload | OpOverloadPacket):
            fact = "is neither an operation nor a type of modules"
            raise PruningError(f"rules {key!r}", fact, "give one, as torch.ops.mylib.op or MyModule")
        if not callable(rule):
            raise PruningError(f"rules {key!r}", f"{rule!r} is not a rule", "give a function of a Call")
        found[key.overloadpacket if isinstance(key, OpOverload) else key] = rule
    return found
