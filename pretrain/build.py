"""From a config to the objects of a pre-training run."""

import logging
import platform
from functools import partial
from pathlib import Path

import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.launch import refuse_nccl_on_cpu

from .contrast import MomentumContrast
from .encoders import build_encoder
from .shuffle_bn import BatchShuffle, GroupedBatchNorm2d

logger = logging.getLogger("mocodet.pretrain")

# With BN_GROUPS 0, one process normalises as the eight GPUs of the paper do.
PAPER_DEVICES = 8


def resolve_device(cfg: CfgNode) -> torch.device:
    """Return the device of ``MODEL.DEVICE``; ``"auto"`` is CUDA when there, CPU otherwise.

    Raises:
        ValueError: ``"cuda"`` on a machine without it.
    """
    available = torch.cuda.is_available()
    if cfg.MODEL.DEVICE == "cpu":
        refuse_nccl_on_cpu()
    if cfg.MODEL.DEVICE == "cuda" and not available:
        raise ValueError("MODEL.DEVICE is 'cuda', but PyTorch finds no CUDA device; use 'auto' or 'cpu'")
    use_cuda = available and cfg.MODEL.DEVICE != "cpu"
    return torch.device("cuda", comm.get_local_rank()) if use_cuda else torch.device("cpu")


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """Return the precision that the encoders run in.

    ``"auto"``: on CUDA, bfloat16 where the GPU has it and float16 where not; on a CPU, bfloat16 where the processor
    multiplies in it and float32 elsewhere, since emulating it is slower.

    Raises:
        ValueError: float16 on a CPU.
    """
    wanted = cfg.SOLVER.PRECISION
    if wanted != "auto":
        if wanted == "float16" and device.type == "cpu":
            raise ValueError("SOLVER.PRECISION float16 needs CUDA; use bfloat16, float32 or auto on a CPU")
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Say whether this processor multiplies bfloat16 natively."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # PyTorch says yes to any AVX-512, where it can emulate; the processor's own flags tell.
        flags = Path("/proc/cpuinfo")
        return flags.is_file() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def bn_groups(cfg: CfgNode) -> int:
    """Return how many groups of its batch each process normalises separately.

    Raises:
        ValueError: the rows of a process do not divide into the groups, or a group would have a single image.
    """
    world = comm.get_world_size()
    groups = cfg.MODEL.BN_GROUPS or (PAPER_DEVICES if world == 1 else 1)
    rows = cfg.SOLVER.IMS_PER_BATCH // world
    if rows % groups or rows < 2 * groups:
        raise ValueError(
            f"each process has {rows} images of a batch (SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} over {world} "
            f"process(es)), which do not divide into {groups} batch-norm groups of two or more; set MODEL.BN_GROUPS"
        )
    if groups == world == 1:
        logger.warning(
            "one process and MODEL.BN_GROUPS 1: every query shares its batch-norm statistics with its key, so Shuffling"
            " BN does nothing and the pretext task can be solved without learning (paper, section 3.3)"
        )
    return groups


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the contrast mechanism and its encoders.

    Raises:
        ValueError: see `bn_groups` and `build_encoder`.
    """
    groups = bn_groups(cfg)
    norm = nn.BatchNorm2d if groups == 1 else partial(GroupedBatchNorm2d, num_groups=groups)
    encoder = build_encoder(cfg.MODEL.ARCH, cfg.MODEL.HEAD, cfg.MODEL.DIM, norm)
    return MomentumContrast(
        encoder,
        BatchShuffle(cfg.SEED),
        queue_size=cfg.CONTRAST.QUEUE_SIZE,
        dim=cfg.MODEL.DIM,
        momentum=cfg.CONTRAST.MOMENTUM,
        temperature=cfg.CONTRAST.TEMPERATURE,
    )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD over the parameters that get a gradient, weight decay on all of them as in the original code."""
    return torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
