"""Checkpoints of encoders in the layouts that the converter and linear evaluation read."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from mocodet.common.encoders.resnet import build_resnet


def encoder(arch: str, head: str = "v1", channels: int = 3) -> nn.Module:
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
        if channels != 3:
            model.conv1 = nn.Conv2d(channels, model.conv1.out_channels, 7, 2, 3, bias=False)
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


# Checkpoints of other projects, in the layout of their public code; `mocodet.common.encoders.styles` names the files.


def backbone(model: nn.Module, prefix: str = "", offset: float = 0) -> dict[str, torch.Tensor]:
    """The ResNet without its classifier; ``offset`` makes it another one, so that taking the wrong one shows."""
    return {f"{prefix}{n}": value + offset for n, value in model.state_dict().items() if not n.startswith("fc.")}


def numbered(model: nn.Module, prefix: str = "", offset: float = 0, children: int = -1) -> dict[str, torch.Tensor]:
    """The same in the layout of ``nn.Sequential(*list(resnet.children())[:-1])``."""
    sequence = nn.Sequential(*list(model.children())[:children])
    return {f"{prefix}{name}": value + offset for name, value in sequence.state_dict().items()}


def head(prefix: str, *layers: str) -> dict[str, torch.Tensor]:
    """A small network: ``"0 linear"``, ``"1 norm"``, and so on; a bar instead of a name has no tensors."""
    kinds = {"linear": nn.Linear(4, 4), "plain": nn.Linear(4, 4, bias=False), "norm": nn.BatchNorm1d(4)}
    kinds["statistics"] = nn.BatchNorm1d(4, affine=False)
    return {
        f"{prefix}{name}.{parameter}": value
        for name, kind in (layer.split() for layer in layers)
        for parameter, value in kinds[kind].state_dict().items()
    }


def optimizer_of(model: nn.Module) -> dict:
    """An optimizer's state after a step: momentum for every parameter, by number."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros(1)
    return optimizer.state_dict()


def lightning(state: dict[str, torch.Tensor]) -> dict:
    """Lightning's checkpoint around a module's state."""
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 10}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"last_epoch": 9}],
        "hyper_parameters": {"max_epochs": 10},
    }


def moco_v3(model: nn.Module) -> dict:
    mlp = ("0 plain", "1 norm", "3 plain", "4 statistics")
    state = {**backbone(model, "module.base_encoder."), **head("module.base_encoder.fc.", *mlp)}
    state |= {**backbone(model, "module.momentum_encoder.", 1), **head("module.momentum_encoder.fc.", *mlp)}
    state |= head("module.predictor.", *mlp)
    return {
        "epoch": 300,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": optimizer_of(model),
        "scaler": {"scale": 1024.0, "growth_factor": 2.0},
    }


def simsiam(model: nn.Module) -> dict:
    mlp = ("0 plain", "1 norm", "3 plain", "4 norm", "6 linear", "7 statistics")
    state = {**backbone(model, "module.encoder."), **head("module.encoder.fc.", *mlp)}
    state |= head("module.predictor.", "0 plain", "1 norm", "3 linear")
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": optimizer_of(model)}


def byol_pytorch_yaox12(model: nn.Module) -> dict:
    mlp = ("l1 linear", "bn1 norm", "l2 linear")
    state = {}
    for network, offset in (("online_network", 0), ("target_network", 1)):
        state |= {
            **numbered(model, f"module.{network}.encoder.", offset),
            **head(f"module.{network}.projetion.", *mlp),
        }
    state |= head("module.predictor.predictor.", *mlp)
    config = {"model": {"backbone": {"type": "resnet50", "pretrained": False}}}
    return {"config": config, "epoch": 300, "steps": 93600, "model": state, "optimizer": optimizer_of(model), "amp": {}}


def byol_pytorch_sthalles(model: nn.Module) -> dict:
    mlp = head("projetion.net.", "0 linear", "1 norm", "3 linear")
    return {
        "online_network_state_dict": {**numbered(model, "encoder."), **mlp},
        "encoder_state_dict": numbered(model),
        "target_network_state_dict": {**numbered(model, "encoder.", 1), **mlp},
        "optimizer_state_dict": optimizer_of(model),
    }


def byol_pytorch_lucidrains(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    mlp = ("0 linear", "1 norm", "3 linear")
    state = {f"{prefix}net.{name}": value for name, value in model.state_dict().items()}
    state |= {f"{prefix}online_encoder.net.{name}": value for name, value in model.state_dict().items()}
    state |= head(f"{prefix}online_encoder.projector.", *mlp)
    state |= {f"{prefix}target_encoder.net.{name}": value + 1 for name, value in model.state_dict().items()}
    return {**state, **head(f"{prefix}target_encoder.projector.", *mlp), **head(f"{prefix}online_predictor.", *mlp)}


def byol_from_jax(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def barlow_twins(model: nn.Module) -> dict:
    state = backbone(model, "module.backbone.")
    state |= head("module.projector.", "0 plain", "1 norm", "3 plain", "4 norm", "6 plain")
    return {"epoch": 300, "model": {**state, **head("module.", "bn statistics")}, "optimizer": optimizer_of(model)}


def vicreg(model: nn.Module) -> dict:
    state = backbone(model, "module.backbone.")
    state |= head("module.projector.", "0 linear", "1 norm", "3 linear", "4 norm", "6 plain")
    return {"epoch": 100, "model": state, "optimizer": optimizer_of(model)}


def swav(model: nn.Module) -> dict[str, torch.Tensor]:
    state = {**backbone(model, "module."), **head("module.projection_head.", "0 linear", "1 norm", "3 linear")}
    return {**state, **head("module.", "prototypes plain")}


def swav_full(model: nn.Module) -> dict:
    return {"epoch": 400, "state_dict": swav(model), "optimizer": optimizer_of(model), "amp": {"loss_scaler0": 1}}


def deepcluster_v2(model: nn.Module) -> dict[str, torch.Tensor]:
    state = {**backbone(model, "module."), **head("module.projection_head.", "0 linear", "1 norm", "3 linear")}
    return {**state, **head("module.prototypes.", "prototypes0 plain", "prototypes1 plain")}


def dino(model: nn.Module, teacher_prefix: str = "module.") -> dict:
    mlp = ("mlp.0 linear", "mlp.2 linear", "mlp.4 linear", "last_layer plain")
    student = {**backbone(model, "module.backbone.", 1), **head("module.head.", *mlp)}
    teacher = {**backbone(model, f"{teacher_prefix}backbone."), **head(f"{teacher_prefix}head.", *mlp)}
    return {
        "student": student,
        "teacher": teacher,
        "optimizer": optimizer_of(model),
        "epoch": 800,
        "args": argparse.Namespace(arch="resnet50", lr=0.3, local_crops_scale=(0.05, 0.14), output_dir="out"),
        "dino_loss": {"center": torch.zeros(1, 16)},
        "fp16_scaler": {"scale": 65536.0},
    }


def densecl(model: nn.Module) -> dict:
    neck = ("mlp.0 linear", "mlp.2 linear", "mlp2.0 linear", "mlp2.2 linear")
    state = {**backbone(model, "encoder_q.0."), **head("encoder_q.1.", *neck)}
    state |= {**backbone(model, "encoder_k.0.", 1), **head("encoder_k.1.", *neck), **backbone(model, "backbone.")}
    for queue in ("queue", "queue2"):
        state |= {queue: torch.randn(4, 8), f"{queue}_ptr": torch.zeros(1, dtype=torch.long)}
    meta = {"epoch": 200, "iter": 1000000, "config": "model = dict(type='DenseCL')", "time": "Mon Nov 16"}
    return {"meta": meta, "state_dict": state, "optimizer": optimizer_of(model)}


def densecl_extracted(model: nn.Module) -> dict:
    return {"state_dict": backbone(model), "author": "DenseCL"}


def pixpro(model: nn.Module) -> dict:
    mlp = ("linear1 linear", "bn1 norm", "linear2 linear")
    state = {**backbone(model, "module.encoder."), **head("module.projector.", *mlp)}
    state |= {**backbone(model, "module.encoder_k.", 1), **head("module.projector_k.", *mlp)}
    return {
        "opt": argparse.Namespace(arch="resnet50", pixpro_p=2.0, base_learning_rate=np.float64(1.0)),
        "model": {**state, **head("module.", "value_transform linear")},
        "optimizer": optimizer_of(model),
        "scheduler": {"last_epoch": 400},
        "epoch": 400,
    }


def vissl(model: nn.Module, prefix: str = "_feature_blocks.") -> dict:
    trunk = backbone(model, prefix)
    heads = head("0.clf.", "0 linear", "2 linear")
    return {
        "phase_idx": 199,
        "iteration": 125200,
        "loss": 2.5,
        "iteration_num": 125199,
        "train_phase_idx": 199,
        "classy_state_dict": {
            "base_model": {"model": {"trunk": trunk, "heads": heads}, "meters": [], "loss": {}, "optim": {}},
        },
    }


def vissl_published(model: nn.Module) -> dict:
    return {"model_state_dict": backbone(model, "_feature_blocks.")}


def solo_learn(model: nn.Module, name: str = "backbone") -> dict:
    state = {**backbone(model, f"{name}."), **head("", "classifier linear"), **backbone(model, f"momentum_{name}.", 1)}
    state |= {**head("projector.", "0 linear", "2 linear"), **head("momentum_projector.", "0 linear", "2 linear")}
    return lightning({**state, **head("predictor.", "0 plain", "1 norm", "3 linear"), "queue": torch.randn(2, 4, 8)})


def solo_learn_without_momentum(model: nn.Module) -> dict:
    return lightning(
        {**backbone(model, "backbone."), **head("", "classifier linear"), **head("projector.", "0 linear")}
    )


def lightly_moco(model: nn.Module, prefix: str = "", children: int = -1) -> dict:
    mlp = ("layers.0 linear", "layers.2 linear")
    state = numbered(model, f"{prefix}backbone.", children=children)
    state |= {**head(f"{prefix}projection_head.", *mlp), **numbered(model, f"{prefix}backbone_momentum.", 1, children)}
    return lightning({**state, **head(f"{prefix}projection_head_momentum.", *mlp)})


def lightly_named(model: nn.Module) -> dict:
    return lightning({**backbone(model, "backbone."), **backbone(model, "backbone_momentum.", 1)})


def lightly_old(model: nn.Module) -> dict:
    return lightning({**numbered(model, "model.backbone."), **numbered(model, "model.momentum_backbone.", 1)})


def lightly_dino(model: nn.Module) -> dict:
    mlp = ("layers.0 linear", "last_layer plain")
    state = {**numbered(model, "student_backbone.", 1), **head("student_head.", *mlp)}
    return lightning({**state, **numbered(model, "teacher_backbone."), **head("teacher_head.", *mlp)})


def lightly_benchmark_moco(model: nn.Module) -> dict:
    mlp = ("layers.0 plain", "layers.2 linear")
    state = {**backbone(model, "backbone.", 1), **head("projection_head.", *mlp), **backbone(model, "query_backbone.")}
    state |= {**head("query_projection_head.", *mlp), "criterion.memory_bank.bank": torch.randn(4, 8)}
    return lightning({**state, **head("online_classifier.", "linear linear")})


def lightly_benchmark_dino(model: nn.Module) -> dict:
    mlp = ("layers.0 plain", "layers.1 norm", "last_layer plain")
    state = {**backbone(model, "backbone."), **head("projection_head.", *mlp)}
    state |= {**backbone(model, "student_backbone.", 1), **head("student_projection_head.", *mlp)}
    return lightning({**state, **head("online_classifier.", "linear linear")})


def lightly_benchmark_byol(model: nn.Module) -> dict:
    mlp = ("layers.0 plain", "layers.1 norm", "layers.3 linear")
    state = {**backbone(model, "backbone."), **head("projection_head.", *mlp), **head("prediction_head.", *mlp)}
    state |= {**backbone(model, "teacher_backbone.", 1), **head("teacher_projection_head.", *mlp)}
    return lightning({**state, **head("online_classifier.", "linear linear")})


def mmselfsup(model: nn.Module, online: str, momentum: str, momentum_wrapper: str = "") -> dict:
    """``online`` is the second name of the backbone, of version 0; version 1 has none but wraps the momentum copy."""
    neck = ("1.mlp.0 linear", "1.mlp.2 linear")
    state = {"data_preprocessor.mean": torch.zeros(3, 1, 1), **backbone(model, "backbone.")}
    if online:
        state |= {**backbone(model, f"{online}.0."), **head(f"{online}.", *neck)}
    if momentum:
        wrapped = f"{momentum}.{momentum_wrapper}"
        state |= {**backbone(model, f"{wrapped}0.", 1), **head(wrapped, *neck), f"{momentum}.steps": torch.tensor(9)}
    state |= head("head.predictor.", "0 linear", "2 linear")
    return {"meta": {"epoch": 200, "mmcv_version": "1.4.6"}, "state_dict": state, "optimizer": optimizer_of(model)}


def openselfsup_without_backbone(model: nn.Module) -> dict:
    state = {**backbone(model, "module.encoder_q.0."), **head("module.encoder_q.1.", "mlp.0 linear")}
    return {"state_dict": {**state, **backbone(model, "module.encoder_k.0.", 1)}}


def timm_training(model: nn.Module) -> dict:
    averaged = model.state_dict()
    return {
        "epoch": 99,
        "arch": "resnet18",
        "state_dict": {name: value + 1 for name, value in averaged.items()},
        "optimizer": optimizer_of(model),
        "version": 2,
        "args": argparse.Namespace(model="resnet18", lr=0.5),
        "amp_scaler": {"scale": 1.0},
        "state_dict_ema": dict(averaged),
        "metric": np.float64(79.1),
    }


def torchvision_training(model: nn.Module) -> dict:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer_of(model),
        "lr_scheduler": {"last_epoch": 90},
        "epoch": 89,
        "args": argparse.Namespace(model="resnet18", world_size=8),
    }


@dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint, and what a reader should find in it."""

    make: Callable[[nn.Module], dict]
    kind: str
    prefix: str
    passed_over: tuple[str, ...] = ()


SOLO_LEARN = "Lightning module's backbone (solo-learn and others)"
TRUNK = "classy_state_dict.base_model.model.trunk"

FOREIGN: dict[str, Foreign] = {
    "MoCo v1": Foreign(
        partial(checkpoint_of, layout="original"),
        "MoCo query encoder, original format",
        "module.encoder_q.",
        ("module.encoder_k.",),
    ),
    "MoCo v3": Foreign(moco_v3, "MoCo v3 base encoder", "module.base_encoder.", ("module.momentum_encoder.",)),
    "SimSiam": Foreign(simsiam, "SimSiam encoder", "module.encoder."),
    "BYOL, yaox12": Foreign(
        byol_pytorch_yaox12,
        "BYOL online encoder (BYOL-PyTorch)",
        "module.online_network.encoder.",
        ("module.target_network.encoder.",),
    ),
    "BYOL, sthalles": Foreign(
        byol_pytorch_sthalles,
        "BYOL online encoder (PyTorch-BYOL)",
        "online_network_state_dict.encoder.",
        ("encoder_state_dict.", "target_network_state_dict.encoder."),
    ),
    "BYOL, lucidrains": Foreign(
        byol_pytorch_lucidrains,
        "BYOL online encoder (byol-pytorch)",
        "net.",
        ("online_encoder.net.", "target_encoder.net."),
    ),
    "BYOL, lucidrains, Lightning": Foreign(
        lambda model: lightning(byol_pytorch_lucidrains(model, "learner.")),
        "BYOL online encoder (byol-pytorch)",
        "learner.net.",
        ("learner.online_encoder.net.", "learner.target_encoder.net."),
    ),
    "BYOL from JAX": Foreign(byol_from_jax, "torchvision ResNet, bare state dict", ""),
    "Barlow Twins": Foreign(barlow_twins, "Barlow Twins backbone", "module.backbone."),
    "Barlow Twins, VICReg, DINO published": Foreign(backbone, "torchvision ResNet, bare state dict", ""),
    "VICReg": Foreign(vicreg, "VICReg backbone", "module.backbone."),
    "SwAV published": Foreign(swav, "SwAV ResNet", "module."),
    "SwAV": Foreign(swav_full, "SwAV ResNet", "module."),
    "DeepCluster v2": Foreign(deepcluster_v2, "SwAV ResNet", "module."),
    "DINO": Foreign(dino, "DINO teacher", "teacher.module.backbone.", ("student.module.backbone.",)),
    "DINO, plain teacher": Foreign(
        partial(dino, teacher_prefix=""), "DINO teacher", "teacher.backbone.", ("student.module.backbone.",)
    ),
    "DenseCL": Foreign(densecl, "DenseCL backbone", "backbone.", ("encoder_q.0.", "encoder_k.0.")),
    "DenseCL extracted": Foreign(densecl_extracted, "torchvision ResNet in a checkpoint", "state_dict."),
    "PixPro": Foreign(pixpro, "PixPro encoder", "module.encoder.", ("module.encoder_k.",)),
    "VISSL": Foreign(vissl, "VISSL trunk", f"{TRUNK}._feature_blocks."),
    "VISSL, features": Foreign(
        partial(vissl, prefix="base_model._feature_blocks."), "VISSL trunk", f"{TRUNK}.base_model._feature_blocks."
    ),
    "VISSL published": Foreign(vissl_published, "VISSL trunk", "model_state_dict._feature_blocks."),
    "solo-learn": Foreign(solo_learn, SOLO_LEARN, "backbone.", ("momentum_backbone.",)),
    "solo-learn, old": Foreign(partial(solo_learn, name="encoder"), SOLO_LEARN, "encoder.", ("momentum_encoder.",)),
    "solo-learn, no momentum": Foreign(solo_learn_without_momentum, SOLO_LEARN, "backbone."),
    "lightly": Foreign(lightly_moco, "lightly backbone", "backbone.", ("backbone_momentum.",)),
    "lightly DenseCL": Foreign(
        partial(lightly_moco, children=-2), "lightly backbone", "backbone.", ("backbone_momentum.",)
    ),
    "lightly, named": Foreign(lightly_named, "lightly backbone", "backbone.", ("backbone_momentum.",)),
    "lightly, old": Foreign(lightly_old, "lightly backbone", "model.backbone.", ("model.momentum_backbone.",)),
    "lightly DINO": Foreign(lightly_dino, "lightly DINO teacher", "teacher_backbone.", ("student_backbone.",)),
    "lightly's MoCo benchmark": Foreign(
        lightly_benchmark_moco, "lightly MoCo query backbone", "query_backbone.", ("backbone.",)
    ),
    "lightly's DINO benchmark": Foreign(
        lightly_benchmark_dino, "lightly DINO teacher, benchmark", "backbone.", ("student_backbone.",)
    ),
    "lightly's BYOL benchmark": Foreign(
        lightly_benchmark_byol, "lightly BYOL online backbone", "backbone.", ("teacher_backbone.",)
    ),
    "lightly, bare": Foreign(numbered, "numbered children of a ResNet (lightly)", ""),
    "mmselfsup MoCo": Foreign(
        partial(mmselfsup, online="encoder_q", momentum="encoder_k"),
        "mmselfsup backbone",
        "backbone.",
        ("encoder_q.0.", "encoder_k.0."),
    ),
    "mmselfsup 1 BYOL": Foreign(
        partial(mmselfsup, online="", momentum="target_net", momentum_wrapper="module."),
        "mmselfsup backbone",
        "backbone.",
        ("target_net.module.0.",),
    ),
    "mmselfsup SimSiam": Foreign(
        partial(mmselfsup, online="encoder", momentum=""), "mmselfsup backbone", "backbone.", ("encoder.0.",)
    ),
    "OpenSelfSup": Foreign(
        openselfsup_without_backbone, "OpenSelfSup query encoder", "module.encoder_q.0.", ("module.encoder_k.0.",)
    ),
    "timm training": Foreign(timm_training, "timm ResNet, moving average", "state_dict_ema.", ("state_dict.",)),
    "torchvision training": Foreign(torchvision_training, "torchvision ResNet in a checkpoint", "model."),
}
