"""Where half precision pays: bfloat16 on CPUs with instructions for it, float16 on CUDA."""

from contextlib import AbstractContextManager

import torch


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
