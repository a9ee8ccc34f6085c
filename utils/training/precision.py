"""Where half precision pays: bfloat16 on CPUs with instructions for it, float16 on CUDA."""

from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def half_type(device: torch.device) -> torch.dtype | None:
    """The half type that makes convolutions faster on `device`, None where there is none."""
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
