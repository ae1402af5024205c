"""Checkpoints of encoders in the layouts that the converter and linear evaluation read."""

import math

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from mocodet.common.resnet import build_resnet


def encoder(arch: str, head: str = "v1") -> nn.Module:
    """A ResNet whose batch norms, statistics included, are far from their initial values; no two tensors are alike.

    torchvision builds it where it can; the others' shapes are tested beside `build_resnet`.
    """
    with torch.device("meta"):
        if hasattr(torchvision.models, arch):
            model = getattr(torchvision.models, arch)(num_classes=16)
        elif arch == "resnext50_32x8d":
            model = ResNet(Bottleneck, [3, 4, 6, 3], num_classes=16, groups=32, width_per_group=8)
        else:
            model = build_resnet(arch, num_classes=16)
        if head == "v2":
            width = model.fc.in_features
            model.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
    torch.manual_seed(0)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.num_batches_tracked.fill_(7)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                bound = math.sqrt(6 / module.weight[0].numel())  # variance 2 / fan-in
                module.weight.uniform_(-bound, bound)
                if module.bias is not None:
                    module.bias.normal_()
    return model


def moco_state(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    state = {f"{prefix}encoder_q.{name}": value.clone() for name, value in model.state_dict().items()}
    # The key encoder differs from the query encoder everywhere, so that taking the wrong one shows.
    state.update({f"{prefix}encoder_k.{name}": value + 1 for name, value in model.state_dict().items()})
    return {**state, f"{prefix}queue": torch.randn(16, 32), f"{prefix}queue_ptr": torch.zeros(1, dtype=torch.long)}


def checkpoint_of(model: nn.Module, layout: str) -> dict:
    """What pre-training saves with ``model`` as its query encoder (``"original"``, ``"ours"``) or its classifier."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9).state_dict()
    if layout == "original":
        return {
            "epoch": 200,
            "arch": "resnet",
            "state_dict": moco_state(model, "module."),
            "optimizer": optimizer,
        }
    if layout == "supervised":
        state = {f"encoder.{name}": value.clone() for name, value in model.state_dict().items()}
    else:
        state = moco_state(model, "")
    return {"model": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "iteration": 41}
