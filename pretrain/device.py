"""Device, precision and memory format of a run."""

import platform
from pathlib import Path

import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode

from mocodet.common.launch import check_backend


def resolve_device(cfg: CfgNode) -> torch.device:
    """Return the device specified by ``MODEL.DEVICE``. ``"auto"`` selects CUDA if available, and the CPU otherwise.

    Raises:
        ValueError: the device is ``"cuda"``, but the machine has no CUDA device.
    """
    if cfg.MODEL.DEVICE == "cpu":
        check_backend()
    elif torch.cuda.is_available():
        return torch.device("cuda", comm.get_local_rank())
    elif cfg.MODEL.DEVICE == "cuda":
        raise ValueError("MODEL.DEVICE is 'cuda', but PyTorch did not find a CUDA device; use 'auto' or 'cpu'")
    return torch.device("cpu")


def memory_format(cfg: CfgNode) -> torch.memory_format:
    """Return the memory format of images and weights, according to ``MODEL.CHANNELS_LAST``."""
    return torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """Return the precision in which the encoders run.

    ``"auto"`` selects a precision for the device. On CUDA, this is bfloat16 if the GPU supports it, and float16
    otherwise. On a CPU, it is bfloat16 if the processor has native bfloat16 multiplication, and float32 otherwise,
    because emulation is slower.

    Raises:
        ValueError: float16 was requested on a CPU.
    """
    if cfg.SOLVER.PRECISION == "float16" and device.type == "cpu":
        raise ValueError("SOLVER.PRECISION float16 requires CUDA; use bfloat16, float32 or auto on a CPU")
    if cfg.SOLVER.PRECISION != "auto":
        return getattr(torch, cfg.SOLVER.PRECISION)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Return whether this processor has native bfloat16 multiplication."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # PyTorch's check also accepts AVX-512 processors that only emulate bfloat16. The CPU flags are exact.
        flags = Path("/proc/cpuinfo")
        return flags.is_file() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
