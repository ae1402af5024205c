"""Selects the device for a config, and builds the model for it."""

import logging

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from .norm import adapt_norms_to_device
from .pooling import pool_in_float32

# In every forward pass, detectron2 checks whether it is being traced with a function for which PyTorch warns.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


def build(cfg: CfgNode) -> nn.Module:
    """Build a config's model, with norms that support its device and with region pooling in full precision."""
    return pool_in_float32(adapt_norms_to_device(build_model(cfg)))


def fall_back_to_cpu(cfg: CfgNode) -> str:
    """Set ``MODEL.DEVICE`` to the CPU (in place) if it is CUDA but CUDA is not available, and return a warning."""
    asked_for = cfg.MODEL.DEVICE
    if not asked_for.startswith("cuda") or torch.cuda.is_available():
        return ""
    cfg.MODEL.DEVICE = "cpu"
    return f"MODEL.DEVICE is {asked_for}, but CUDA is not available: running on the CPU"
