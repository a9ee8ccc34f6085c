"""Where half precision pays: bfloat16 on CPUs with instructions for it, float16 on CUDA."""

from contextlib import AbstractContextManager
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def half_type(device: torch.device, precision: Precision = "auto") -> torch.dtype | None:
    """The type of convolutions, None for float32; "auto" is the half type that is faster on `device`."""
    if precision != "auto":
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.float16
    if device.type != "cpu":
        return None
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Run convolutions in `dtype`; with None, a context that changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def channels_last(model: Model) -> Model:
    """Put the weights of convolutions into the memory order that half precision is fast in; in place."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
