"""Where a run computes, and in which precision and memory format."""

import platform
from pathlib import Path

import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode

from mocodet.common.launch import check_backend


def resolve_device(cfg: CfgNode) -> torch.device:
    """Return the device of ``MODEL.DEVICE``; ``"auto"`` is CUDA if available, else the CPU.

    Raises:
        ValueError: ``"cuda"`` on a machine without it.
    """
    if cfg.MODEL.DEVICE == "cpu":
        check_backend()
    elif torch.cuda.is_available():
        return torch.device("cuda", comm.get_local_rank())
    elif cfg.MODEL.DEVICE == "cuda":
        raise ValueError("MODEL.DEVICE is 'cuda', but PyTorch finds no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cpu")


def memory_format(cfg: CfgNode) -> torch.memory_format:
    """Return the format of images and weights that ``MODEL.CHANNELS_LAST`` asks for."""
    return torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """Return the precision that the encoders run in.

    ``"auto"``: on CUDA, bfloat16 if the GPU supports it, else float16; on a CPU, bfloat16 if the processor multiplies
    in it natively, else float32, since emulation is slower.

    Raises:
        ValueError: float16 on a CPU.
    """
    if cfg.SOLVER.PRECISION == "float16" and device.type == "cpu":
        raise ValueError("SOLVER.PRECISION float16 needs CUDA; use bfloat16, float32 or auto on a CPU")
    if cfg.SOLVER.PRECISION != "auto":
        return getattr(torch, cfg.SOLVER.PRECISION)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 natively."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # PyTorch reports any AVX-512, with which it can emulate; the processor's own flags are exact.
        flags = Path("/proc/cpuinfo")
        return flags.is_file() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
