"""The supervised method against plain torch and torchvision; its encoder files; its configs."""

import math
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.utils import comm
from torch import nn

from mocodet import configs
from mocodet.common.encoders.resnet import build_resnet
from mocodet.common.launch import distribute
from mocodet.pretrain.checkpoint import load_classifier, load_encoder
from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.methods import MomentumContrast
from mocodet.pretrain.methods.heads import build_encoder
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from mocodet.pretrain.methods.supervised import SupervisedClassifier
from tests.processes import run_in_processes

CLASSES, BATCH, STEPS, LR, MOMENTUM, DECAY = 5, 8, 10, 0.05, 0.9, 1e-3


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "image": torch.randn(BATCH, 3, 6, 6, generator=generator),
            "label": torch.randint(CLASSES, (BATCH,), generator=generator),
        }
        for _ in range(STEPS)
    ]


def torchvision_start() -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None, num_classes=CLASSES)


def small_start() -> nn.Module:
    """Make a network with batch norm; a ResNet would amplify rounding, step by step, to the size of a real fault."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip


def ours_from(start: nn.Module) -> SupervisedClassifier:
    network = build_resnet("resnet18", nn.BatchNorm2d, False, CLASSES)
    network.load_state_dict(start.state_dict())
    return SupervisedClassifier(network)


def train(rank: int = 0, world: int = 1) -> dict[str, list]:
    """Train the package's classifier on this process's rows of each batch, as the trainer does."""
    method = SupervisedClassifier(small_start())
    model = distribute(method.train())
    optimizer = torch.optim.SGD(method.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    rows = BATCH // world
    outputs = []
    for batch in batches():
        found = model({name: value[rank * rows : (rank + 1) * rows] for name, value in batch.items()})
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        outputs.append({name: value.item() for name, value in found.items()})
    return {"outputs": outputs, "state": method.state_dict()}


def train_in_process() -> dict[str, list]:
    return train(comm.get_rank(), comm.get_world_size())


def reference(devices: int) -> dict[str, list]:
    """Torchvision's training on each device's rows in turn, one image's loss at a time, and SGD written out."""
    network = small_start().train()
    velocity = [torch.zeros_like(parameter) for parameter in network.parameters()]
    rows = BATCH // devices
    outputs = []
    for batch in batches():
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
        per_device = []
        for device in range(devices):
            if device == 1:  # checkpoints hold the first device's statistics
                first = {name: buffer.clone() for name, buffer in network.named_buffers()}
            for name, buffer in network.named_buffers():
                buffer.copy_(statistics[name])
            mine = slice(device * rows, (device + 1) * rows)
            logits, labels = network(batch["image"][mine]), batch["label"][mine].tolist()
            losses = [row.exp().sum().log() - row[label] for row, label in zip(logits, labels, strict=True)]
            loss = sum(losses) / rows
            (loss / devices).backward()
            right = [
                max(range(CLASSES), key=row.__getitem__) == label for row, label in zip(logits, labels, strict=True)
            ]
            per_device.append({"loss": loss.item(), "accuracy": sum(right) / rows})
        if devices > 1:
            for name, buffer in network.named_buffers():
                buffer.copy_(first[name])
        with torch.no_grad():
            for parameter, speed in zip(network.parameters(), velocity, strict=True):
                speed.mul_(MOMENTUM).add_(parameter.grad + DECAY * parameter)
                parameter.sub_(LR * speed)
        outputs.append(per_device)
    return {"outputs": outputs, "state": network.state_dict()}


def assert_same_training(found: list[dict], expected: dict) -> None:
    for step, per_device in enumerate(expected["outputs"]):
        for device, outputs in enumerate(per_device):
            assert found[device]["outputs"][step] == pytest.approx(outputs, rel=1e-4), (step, device)
    state = found[0]["state"]
    assert {name.removeprefix("encoder.") for name in state} == expected["state"].keys()
    for name, tensor in expected["state"].items():
        assert torch.allclose(state[f"encoder.{name}"].float(), tensor.float(), rtol=1e-4, atol=1e-5), name


def test_forward__loss_and_gradients_of_cross_entropy():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))
    method = SupervisedClassifier(encoder)
    images, labels = torch.randn(6, 3, 2, 2), torch.tensor([0, 4, 2, 2, 1, 3])
    outputs = method({"image": images, "label": labels, "index": torch.arange(6)})
    outputs["loss"].backward()

    logits = encoder(images).detach()
    shares = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # N x C
    expected = -sum(math.log(shares[row, label]) for row, label in enumerate(labels)) / 6
    assert outputs["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert outputs["accuracy"].item() == pytest.approx((logits.max(dim=1).indices == labels).sum().item() / 6)
    target = torch.eye(CLASSES)[labels]
    gradient = ((shares - target).T @ images.flatten(1)) / 6  # of the linear layer's weight, by hand
    assert torch.allclose(encoder[1].weight.grad, gradient, atol=1e-6)
    assert torch.allclose(encoder[1].bias.grad, (shares - target).mean(dim=0), atol=1e-6)
    assert not outputs["accuracy"].requires_grad


def test_forward__loss_is_float32_under_autocast():
    torch.manual_seed(0)
    method = SupervisedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method({"image": torch.randn(2, 3, 2, 2), "label": torch.tensor([0, 1])})
    assert outputs["loss"].dtype == torch.float32


def test_steps__equal_training_written_out_slowly():
    assert_same_training([train()], reference(devices=1))


def test_steps__two_processes_normalise_apart_and_average_gradients():
    expected, together = reference(devices=2), reference(devices=1)
    means = [sum(outputs["loss"] for outputs in per_device) / 2 for per_device in expected["outputs"]]
    others = [outputs["loss"] for (outputs,) in together["outputs"]]
    assert means != pytest.approx(others, rel=0.01), "otherwise this would prove nothing"
    assert_same_training(run_in_processes(train_in_process), expected)


def moco_checkpoint(path, arch: str = "resnet18", small_stem: bool = False) -> nn.Module:
    """Write a MoCo checkpoint whose batch-norm statistics are not the initial ones; return its query encoder."""
    torch.manual_seed(2)
    encoder = build_encoder(arch, "mlp", 16, nn.BatchNorm2d, small_stem)
    moco = MomentumContrast(encoder, BatchShuffle(0), queue_size=8, dim=16)
    with torch.no_grad():
        moco.encoder_q(torch.randn(4, 3, 32, 32))
        for parameter in moco.encoder_k.parameters():
            parameter.add_(1)
    torch.save({"model": moco.state_dict(), "iteration": 7}, path)
    return moco.encoder_q


@torch.no_grad()
def pooled_features(network: nn.Module) -> torch.Tensor:
    network = network.eval()
    network.fc = nn.Identity()
    return network(torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0)))


def test_load_encoder__features_are_the_query_encoders(tmp_path):
    query = moco_checkpoint(tmp_path / "model.pth")
    torch.manual_seed(3)
    network = build_resnet("resnet18", nn.BatchNorm2d, False, CLASSES)
    classifier = {name: value.clone() for name, value in network.fc.state_dict().items()}
    load_encoder(network, tmp_path / "model.pth")
    for name, value in classifier.items():
        assert torch.equal(network.fc.state_dict()[name], value), "the classifier must not change"
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(pooled_features(network), pooled_features(query))


def test_load_encoder__reads_what_supervised_training_leaves(tmp_path):
    method = ours_from(torchvision_start())
    torch.save({"model": method.state_dict(), "iteration": 0}, tmp_path / "model.pth")
    network = build_resnet("resnet18", nn.BatchNorm2d, False, 2 * CLASSES)
    load_encoder(network, tmp_path / "model.pth")
    assert torch.equal(pooled_features(network), pooled_features(method.encoder))


@pytest.mark.parametrize(
    ("arch", "small_stem", "message"),
    [
        (
            "resnet34",
            False,
            r"contains a resnet18 that does not match this config's network: layer1\.2.*set MODEL.ARCH",
        ),
        ("resnet18", True, r"conv1\.weight differ; set MODEL.ARCH resnet18 MODEL.SMALL_STEM False"),
    ],
)
def test_load_encoder__misfits_are_refused(tmp_path, arch, small_stem, message):
    moco_checkpoint(tmp_path / "model.pth")
    network = build_resnet(arch, nn.BatchNorm2d, small_stem, CLASSES)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=rf"model\.pth .*{message}"):
        load_encoder(network, tmp_path / "model.pth")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_load_encoder__small_stem(tmp_path):
    query = moco_checkpoint(tmp_path / "model.pth", small_stem=True)
    network = build_resnet("resnet18", nn.BatchNorm2d, True, CLASSES)
    load_encoder(network, tmp_path / "model.pth")
    assert torch.equal(pooled_features(network), pooled_features(query))
    with pytest.raises(ValueError, match=r"conv1\.weight differ; set MODEL.ARCH resnet18 MODEL.SMALL_STEM True"):
        load_encoder(build_resnet("resnet18", nn.BatchNorm2d, False, CLASSES), tmp_path / "model.pth")


def test_load_encoder__no_encoder_in_the_file(tmp_path):
    network = build_resnet("resnet18", nn.BatchNorm2d, False, CLASSES)
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS: there is no checkpoint \S*nothing\.pth; specify"):
        load_encoder(network, tmp_path / "nothing.pth")
    with (tmp_path / "converted.pkl").open("wb") as handle:
        pickle.dump({"model": {}}, handle)
    with pytest.raises(
        ValueError,
        match=r"MODEL.WEIGHTS: \S*converted\.pkl: a \.pkl file is already converted for detectron2; specify the",
    ):
        load_encoder(network, tmp_path / "converted.pkl")
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS: \S*other\.pth: contains no encoder"):
        load_encoder(network, tmp_path / "other.pth")


def test_load_classifier__whole_or_refused(tmp_path):
    start = torchvision_start()
    torch.save({"model": ours_from(start).state_dict(), "iteration": 41}, tmp_path / "ours.pth")
    # torchvision's own files were written before batch counters existed
    old = {name: value for name, value in start.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(start.state_dict())
    torch.save(old, tmp_path / "torchvision.pth")
    wrapped = {f"module.{name}": value for name, value in start.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "distributed.pth")
    torch.save({"method": "baseline", "state_dict": wrapped}, tmp_path / "foreign.pth")  # "method" is a foreign key
    for file, iterations in (("ours.pth", 42), ("torchvision.pth", 0), ("distributed.pth", 0), ("foreign.pth", 0)):
        network = build_resnet("resnet18", nn.BatchNorm2d, False, CLASSES)
        assert load_classifier(network, tmp_path / file) == iterations
        assert all(torch.equal(value, start.state_dict()[name]) for name, value in network.state_dict().items())
    del old["layer1.0.bn1.running_mean"]
    torch.save(old, tmp_path / "partial.pth")
    with pytest.raises(ValueError, match=r"partial\.pth does not match .*: layer1\.0\.bn1\.running_mean differ"):
        load_classifier(network, tmp_path / "partial.pth")
    with pytest.raises(ValueError, match=r"ours\.pth does not match .*: fc\.weight, fc\.bias differ; .* 6 classes"):
        load_classifier(build_resnet("resnet18", nn.BatchNorm2d, False, 6), tmp_path / "ours.pth")
    moco_checkpoint(tmp_path / "moco.pth")
    with pytest.raises(
        ValueError, match=r"moco\.pth does not match this config's complete classifier: conv1\.weight, "
    ):
        load_classifier(network, tmp_path / "moco.pth")


def merged(name: str):
    cfg = get_cfg()
    cfg.merge_from_file(str(configs.path(name)))
    return cfg


COMMON = {
    "METHOD": "supervised",
    "AUGMENTATION.NAME": "supervised",
    "AUGMENTATION.CROP_SIZE": 224,
    "AUGMENTATION.MIN_SCALE": 0.08,
    "MODEL.ARCH": "resnet50",
    "SOLVER.LR_SCHEDULE": "step",
    "SOLVER.GAMMA": 0.1,
    "SOLVER.IMS_PER_BATCH": 256,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 1e-4,
}
RECIPES = {
    "pretrain/supervised_R_50_90ep": {"SOLVER.BASE_LR": 0.1, "SOLVER.MAX_EPOCHS": 90, "MODEL.WEIGHTS": ""},
    "pretrain/supervised_R_50_100ep": {"SOLVER.BASE_LR": 0.1, "SOLVER.MAX_EPOCHS": 100, "MODEL.WEIGHTS": ""},
    # MoCo, appendix
    "classification/inat18_R_50_100ep": {
        "SOLVER.BASE_LR": 0.025,
        "SOLVER.MAX_EPOCHS": 100,
        "SOLVER.STEPS": (70, 90),
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe__says_what_the_sources_say(name):
    cfg = merged(f"{name}.yaml")
    for key, expected in {**COMMON, **RECIPES[name]}.items():
        found = cfg
        for part in key.split("."):
            found = found[part]
        assert found == expected, key


@pytest.mark.parametrize("task", ["inat18_R_50_100ep", "imagenet_R_50_100ep"])
def test_variants__differ_in_weights_alone(task):
    leaves = sorted(path.stem for path in configs.ROOT.glob(f"classification/{task}*.yaml"))
    assert len(leaves) > 1
    weights, rest = {}, []
    for leaf in leaves:
        cfg = merged(f"classification/{leaf}.yaml")
        check_config(cfg)
        weights[leaf] = cfg.MODEL.WEIGHTS
        assert Path(cfg.OUTPUT_DIR) == Path("output", leaf)
        cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
        rest.append(cfg)
    assert all(cfg == rest[0] for cfg in rest)
    assert len(set(weights.values())) == len(leaves)
    assert weights[f"{task}_random"] == ""
