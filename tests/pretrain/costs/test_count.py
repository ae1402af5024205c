"""Counted costs against hand formulas, fvcore, torchvision, and the exchange of real processes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchvision
from fvcore.common.config import CfgNode
from fvcore.nn import FlopCountAnalysis
from PIL import Image
from torch import nn

from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.costs.count import (
    CollectiveCounter,
    count_run,
    count_step,
    extrapolate,
    pretended_processes,
    random_batch,
    sent,
)
from mocodet.pretrain.methods import METHODS
from mocodet.pretrain.methods.base import DataFacts
from mocodet.pretrain.methods.heads import build_encoder
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from mocodet.pretrain.trainer import PretrainTrainer
from tests.commands import costs as run_costs
from tests.processes import run_in_processes

IMAGES, BATCH, CLASSES, SIZE, DIM, QUEUE = 26, 12, 2, 32, 8, 20


class Small(nn.Module):
    """A method with one convolution and one linear layer, whose costs can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5, bias=False),
        )

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"loss": self.encoder(batch["image"]).sum()}


@pytest.mark.parametrize("rows", [2, 3])
def test_count_step__hand_formula(rows):
    counted = count_step(Small(), {"image": torch.randn(rows, 3, 7, 7)}, torch.float32)
    convolution = 2 * rows * 4 * 7 * 7 * 3 * 9
    linear = 2 * rows * 4 * 5
    # The images need no gradient, so the convolution's backward is the weights' alone.
    assert counted.flops == {"encoder": convolution + linear, "backward": convolution + 2 * linear}
    # The convolution keeps the batch, which is counted as such; ReLU its output; the linear layer its input.
    assert counted.memory == {"saved for backward": 4 * rows * (4 * 7 * 7 + 4), "batch": 4 * rows * 3 * 7 * 7}
    assert counted.handed == {}


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_count_step__encoder_as_fvcore_counts(arch):
    network = nn.Module()
    network.encoder = build_encoder(arch, "mlp")
    network.forward = lambda batch: {"loss": network.encoder(batch["image"]).sum()}
    images = torch.randn(2, 3, 64, 64)
    counted = count_step(network, {"image": images}, torch.float32)
    analysis = FlopCountAnalysis(network.encoder, images).unsupported_ops_warnings(False).by_operator()
    assert counted.flops["encoder"] == 2 * (analysis["conv"] + analysis["linear"])  # fvcore counts multiply-adds


def test_count_step__resnet50_has_4_1_billion_multiply_adds():
    network = nn.Module()
    network.encoder = build_encoder("resnet50", "fc", dim=1000)
    network.forward = lambda batch: {"loss": network.encoder(batch["image"]).sum()}
    counted = count_step(network, {"image": torch.randn(1, 3, 224, 224)}, torch.bfloat16)
    assert counted.flops["encoder"] / 2e9 == pytest.approx(4.1, abs=0.05)  # He et al.'s v1.5 with the stride in the 3x3


def config(method: str, batch: int = BATCH, **more: object) -> CfgNode:
    cfg = get_cfg()
    values = {
        "METHOD": method,
        "DATA.ROOT": "images",
        "DATA.NUM_WORKERS": 0,
        "AUGMENTATION.NAME": "supervised" if method == "supervised" else "moco_v2",
        "AUGMENTATION.CROP_SIZE": 40 if method == "dense" else SIZE,  # 2 x 2 cells
        "MODEL.ARCH": "resnet18",
        "MODEL.DIM": DIM,
        "MODEL.DEVICE": "cpu",
        "MODEL.BN_GROUPS": 1,
        "CONTRAST.QUEUE_SIZE": QUEUE,
        "CONTRAST.NUM_NEGATIVES": 5,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.MAX_EPOCHS": 2,
        "SOLVER.PRECISION": "float32",
    }
    cfg.merge_from_list([part for pair in {**values, **more}.items() for part in pair])
    check_config(cfg)
    return cfg


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        (folder / str(number % CLASSES)).mkdir(exist_ok=True)
        Image.effect_noise((40, 40), 90).convert("RGB").save(folder / str(number % CLASSES) / f"{number:02}.png")
    return folder


class Counted(PretrainTrainer):
    """Counts the bytes that the real step, with DDP, and the log hand to collectives."""

    def run_step(self) -> None:
        with CollectiveCounter() as counter:
            super().run_step()
        self.handed = counter.handed - self.logged

    def log(self, *arguments: Any) -> None:
        with CollectiveCounter() as counter:
            super().log(*arguments)
        self.logged = counter.handed


def handed_in_training(cfgs: list[CfgNode]) -> list[dict[str, int]]:
    """Return the bytes, by operation, of the last step of each run: the first ones set up DDP's buckets."""
    handed = []
    for cfg in cfgs:
        trainer = Counted(cfg)
        trainer.train()
        assert trainer.logged.keys() == {"all_reduce"}
        handed.append(dict(trainer.handed))
    return handed


def by_operation(counted: dict[tuple[str, str], float]) -> dict[str, float]:
    """Sum over the phases of a step."""
    sums: Counter[str] = Counter()
    for (_, operation), handed in counted.items():
        sums[operation] += handed
    return sums


@pytest.mark.parametrize(("methods", "world"), [(tuple(METHODS), 2), (("moco",), 3)])
def test_count_run__collectives_of_real_processes(methods, world, images, tmp_path):
    cfgs = [config(name, **{"DATA.ROOT": str(images), "OUTPUT_DIR": str(tmp_path / name)}) for name in methods]
    for cfg in cfgs:
        Path(cfg.OUTPUT_DIR).mkdir()
    ranks = run_in_processes(handed_in_training, cfgs, world_size=world)
    for number, cfg in enumerate(cfgs):
        counted = by_operation(count_run(cfg, world, IMAGES, CLASSES).handed)
        assert [handed[number] for handed in ranks] == [counted] * world


def test_count_run__collectives_by_hand():
    counted = count_run(config("moco"), 3, IMAGES)
    encoder = torchvision.models.resnet18(num_classes=DIM)
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) + 512 * 512 + 512  # the hidden layer
    assert counted.handed == {
        ("forward", "all_to_all"): 4 * 4 * 3 * SIZE * SIZE,  # float32, 4 key images
        ("forward", "all_gather"): 4 * 4 * DIM,
        ("gradients", "all_reduce"): 4 * parameters,
    }
    cells = 2 * 2
    dense = count_run(config("dense"), 3, IMAGES).handed
    assert dense == {
        ("forward", "all_to_all"): 4 * 4 * (3 * 40 * 40 + cells * (512 + DIM)),  # images; their maps and dense vectors
        ("forward", "all_gather"): 4 * 4 * 2 * DIM,
        ("gradients", "all_reduce"): 4 * (parameters + 512 * 512 + 512 + 512 * DIM + DIM),
    }


@pytest.mark.parametrize("method", METHODS)
def test_extrapolate__equals_a_count_at_full_size(method):
    cfg, data = config(method), DataFacts(size=IMAGES, classes=("a", "b"))
    with pretended_processes(1 if method == "memory_bank" else 2):
        model = METHODS[method].from_config(cfg, data)
    with pretended_processes(2):
        small, large, full = (count_step(model, random_batch(cfg, rows, data), torch.bfloat16) for rows in (2, 4, 6))
    found = extrapolate(small, large, 3)
    assert found.handed == full.handed
    assert found.memory["batch"] == full.memory["batch"]
    # Only similarities within a batch (end-to-end's logits, MoCo's second accuracy) grow with the square.
    squares = {"end_to_end": 6 * 12, "moco": 6 * 6, "dense": 6 * 6}.get(method, 0)
    assert found.flops == pytest.approx(full.flops, abs=2 * 3 * squares * DIM)
    kept = 4 * 4 * squares if method == "end_to_end" else 0
    assert found.memory["saved for backward"] == pytest.approx(full.memory["saved for backward"], abs=kept)


def test_count_run__memory_by_torchvision():
    counted = count_run(config("moco"), 2, IMAGES)
    encoder = torchvision.models.resnet18(num_classes=DIM)
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) + 512 * 512 + 512
    buffers = sum(buffer.nbytes for buffer in encoder.buffers())
    expected = {
        "trainable parameters": 4 * parameters,
        "key encoder parameters": 4 * parameters,
        "gradients": 4 * parameters,
        "optimizer state": 4 * parameters,
        "DDP gradient buckets": 4 * parameters,
        "queue": 4 * DIM * QUEUE,
        "other buffers": 2 * buffers + 8,  # those of two encoders, and the queue's pointer
        "batch": 6 * 2 * 4 * 3 * SIZE * SIZE + 6 * 8,  # two float32 views, and the places in the data set
    }
    assert {name: counted.memory[name] for name in expected} == expected
    assert set(counted.memory) - set(expected) == {"saved for backward"}


def test_count_run__half_the_bits_are_half_the_activations():
    def of_an_image(precision: str) -> float:
        twice, once = (
            count_run(config("moco", batch, **{"SOLVER.PRECISION": precision}), 2, 2 * BATCH)
            for batch in (2 * BATCH, BATCH)
        )
        difference = sum(twice.memory.values()) - sum(once.memory.values())
        assert once.image_memory == pytest.approx(difference / (BATCH / 2))
        return once.image_memory - once.memory["batch"] / (BATCH / 2)

    # Only nearly: places of maxima are int64, and vectors and similarities are float32, in both.
    assert 0.5 <= of_an_image("bfloat16") / of_an_image("float32") < 0.7


def test_count_run__bank_of_a_billion_images_is_not_made():
    counted = count_run(config("memory_bank"), 1, 10**9)
    assert counted.memory["bank"] == 4 * DIM * 10**9
    assert counted.iterations == 2 * (10**9 // BATCH)


def test_sent__all_to_all_as_the_permutations_have_it():
    world, rows, draws = 8, 4, 400
    shuffle = BatchShuffle(seed=0)
    leaving = 0
    for _ in range(draws):
        with pretended_processes(world):
            source = shuffle.draw(rows) // rows
        leaving += (source != torch.arange(world * rows) // rows).sum().item()
    assert leaving / draws / world == pytest.approx(sent("all_to_all", rows, world), rel=0.01)


@pytest.mark.parametrize("world", [2, 5])
def test_sent__rings(world):
    chunks = [{rank: {rank} for rank in range(world)} for _ in range(world)]  # chunk -> rank -> whose parts it holds
    passed = 0
    for step in range(2 * (world - 1)):  # reduce-scatter, then all-gather
        messages = [((rank - step) % world, rank) for rank in range(world)]
        contents = [set(chunks[chunk][rank]) for chunk, rank in messages]
        for (chunk, rank), content in zip(messages, contents, strict=True):
            chunks[chunk][(rank + 1) % world] |= content
            passed += rank == 0
    assert all(held == set(range(world)) for chunk in chunks for held in chunk.values())
    assert sent("all_reduce", world, world) == pytest.approx(passed)
    assert sent("reduce_scatter", world, world) == sent("all_gather", 1, world) == pytest.approx(passed / 2)


def test_collective_counter__refuses_what_it_does_not_know():
    message = "reduce_ is an unsupported collective"
    with pretended_processes(2), pytest.raises(ValueError, match=message), CollectiveCounter():
        dist.reduce(torch.ones(1), 0)
    assert not dist.is_initialized()


def test_pretended_processes__not_within_a_group():
    with pretended_processes(2), pytest.raises(ValueError, match="initialize the default process group twice"):
        count_run(config("moco"), 2, IMAGES)


@pytest.mark.parametrize(
    ("world", "images", "message"),
    [(5, 100, "12 is not divisible by the number of processes, 5"), (2, 11, "11 images, fewer than one batch")],
)
def test_count_run__impossible(world, images, message):
    with pytest.raises(ValueError, match=message):
        count_run(config("moco"), world, images)


@pytest.fixture
def config_file(tmp_path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(config("moco").dump())
    return file


def test_main__tables(config_file, capsys):
    arguments = ["--config-file", config_file, "--world-size", 2, "--images", 100, "--hours", 0.5, "--link", 0.01]
    more = ["--peak", "slow=0.0001", "--peak", "fast=0.1", "SOLVER.MAX_EPOCHS", 3]
    run_costs(list(map(str, [*arguments, *more])))
    printed = capsys.readouterr().out
    iterations = 3 * (100 // BATCH)
    assert f"100 images, {iterations:,} iterations, {iterations * BATCH} images seen" in printed
    rows = dict(line.strip("|").split("|", 1) for line in printed.splitlines() if line.startswith("|"))
    cells = {name.strip(): [cell.strip() for cell in rest.split("|")] for name, rest in rows.items()}
    run = count_run(config("moco", **{"SOLVER.MAX_EPOCHS": 3}), 2, 100)
    flops = sum(run.flops.values()) * 2 * iterations
    minutes = flops / 0.2e12 / 60  # shown as hours they would be 0.0
    assert cells["fast, 0.1 TFLOP/s"][0] == f"{minutes:.2g} min"
    assert float(cells["slow, 0.0001 TFLOP/s"][0]) == pytest.approx(minutes * 1000 / 60, abs=0.05)
    share = float(cells["slow, 0.0001 TFLOP/s"][-1].rstrip("%")) / 100
    assert share == pytest.approx(flops / (2 * 0.0001e12 * 1800), abs=0.0005)
    assert cells["queue"] == [f"{4 * DIM * QUEUE} B"]
    assert cells["forward: all_to_all"][:2] == ["73.7 kB", "36.9 kB"]  # 6 x 3 x 32 x 32 x 4, of which half leaves
    leaves = sum(sent(operation, handed, 2) for (_, operation), handed in run.handed.items())
    assert f"communication takes {leaves / 0.01e9 / (1800 / iterations):.1%} of the step" in printed
    assert float(cells["sum"][-1].split()[0]) == pytest.approx(sum(run.memory.values()) / 1e6, rel=0.005)
    assert "On this machine" not in printed
    rate = iterations * BATCH / 1800
    assert cells["images/s"] == [f"{rate:,.0f}", f"{rate / 2:,.0f}"]
    assert cells["reading, at 110 kB per image"] == [f"{rate * 110:.3g} kB/s", f"{rate * 55:.3g} kB/s"]


def test_main__errors_on_one_line(config_file):
    with pytest.raises(SystemExit, match=r"error: SOLVER\.IMS_PER_BATCH 12 is not divisible by the number of"):
        run_costs(["--config-file", str(config_file), "--world-size", "5", "--images", "100"])
