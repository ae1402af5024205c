"""MODEL.WEIGHTS: encoders start from a checkpoint, and the queue or bank is filled before the first step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.utils.events import EventStorage
from fvcore.common.config import CfgNode
from PIL import Image
from torch import nn

from mocodet.pretrain.build import build_data
from mocodet.pretrain.checkpoint import load_encoder
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.views import collate, normalize
from mocodet.pretrain.methods import METHODS
from mocodet.pretrain.methods.base import DataFacts
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from mocodet.pretrain.run import start as start_run
from mocodet.pretrain.schedules import WARM_START, lr_multiplier, warmup_iterations
from mocodet.pretrain.trainer import PretrainTrainer
from tests.checkpoints import assert_equal_states, copy_checkpoint
from tests.commands import pretrain
from tests.encoders import FOREIGN, checkpoint_of, encoder
from tests.processes import run_in_processes

IMAGES, BATCH, GROUPS, QUEUE, DIM = 18, 8, 2, 20, 8  # two iterations an epoch; three batches fill the queue

LAYOUTS: dict[str, Callable[[nn.Module], dict]] = {
    "torchvision": lambda model: model.state_dict(),
    "MoCo's original": lambda model: checkpoint_of(model, "original"),
    "our own": lambda model: checkpoint_of(model, "ours"),
    "DINO": FOREIGN["DINO"].make,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        Image.effect_noise((40, 40), 90).convert("RGB").save(root / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def start() -> nn.Module:
    """The ResNet-18 in the files."""
    return encoder("resnet18")


@pytest.fixture(scope="module")
def weights(start, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "start.pth"
    torch.save(start.state_dict(), file)
    return file


def options(images: Path | str, output: Path, *overrides: object) -> list[str]:
    values = f"""DATA.ROOT {images} DATA.NUM_WORKERS 0 AUGMENTATION.CROP_SIZE 32 MODEL.ARCH resnet18 MODEL.DIM {DIM}
        MODEL.DEVICE cpu MODEL.BN_GROUPS {GROUPS} CONTRAST.QUEUE_SIZE {QUEUE} CONTRAST.NUM_NEGATIVES 5
        SOLVER.IMS_PER_BATCH {BATCH} SOLVER.MAX_EPOCHS 1 SOLVER.PRECISION float32 OUTPUT_DIR {output}"""
    return [*values.split(), *map(str, overrides)]


def config(images: Path | str, output: Path, *overrides: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(options(images, output, *overrides))
    output.mkdir(parents=True, exist_ok=True)
    return cfg


def run(images: Path, output: Path, *overrides: object, flags: tuple[str, ...] = ()) -> None:
    file = output.parent / "empty.yaml"
    file.write_text("METHOD: moco")
    pretrain(["--config-file", str(file), *flags, *options(images, output, *overrides)])


@pytest.fixture(autouse=True)
def errors_as_raised(monkeypatch):
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")


@pytest.mark.parametrize(("method", "layout"), zip(METHODS, list(LAYOUTS) * len(METHODS), strict=False))
def test_start__backbone_of_the_file_and_the_head_of_the_seed(method, layout, start, tmp_path):
    torch.save(LAYOUTS[layout](start), tmp_path / "start.pth")
    cfg = config("images", tmp_path, "METHOD", method)

    def build() -> nn.Module:
        torch.manual_seed(cfg.SEED)
        return METHODS[method].from_config(cfg, DataFacts(size=9, classes=("a", "b")))

    started, fresh = build(), build().state_dict()
    load_encoder(started.encoder_to_transfer, tmp_path / "start.pth")
    started.copy_encoder()
    # Every ResNet of the method has the file's backbone; all else has its initial values from the seed.
    networks = [name.split(".")[0] for name in fresh if name.endswith(".layer1.0.conv1.weight")]
    backbone = {
        f"{network}.{name}": value
        for network in networks
        for name, value in start.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    assert backbone.keys() <= fresh.keys()
    assert_equal_states(dict(started.state_dict()), {name: backbone.get(name, fresh[name]) for name in fresh})


@pytest.mark.parametrize("signs", [[], ["collapse"]])
def test_start__warns_of_a_file_whose_own_run_did_not_learn(signs, images, start, tmp_path, caplog):
    torch.save({**checkpoint_of(start, "ours"), "signs": {"told": signs}}, tmp_path / "start.pth")
    trainer = PretrainTrainer(config(images, tmp_path))
    with caplog.at_level("INFO", "mocodet.pretrain"):
        trainer.start_from(str(tmp_path / "start.pth"))
    (told,) = [one for one in caplog.records if "initialised from" in one.message]
    assert told.levelname == ("WARNING" if signs else "INFO")
    assert ("its training showed signs of not learning: collapse" in told.message) == bool(signs)


def test_start__another_architecture_is_refused(images, weights, tmp_path):
    cfg = config(images, tmp_path / "run", "MODEL.ARCH", "resnet34", "MODEL.WEIGHTS", weights)
    with pytest.raises(ValueError, match=r"start\.pth contains a resnet18 .*; set MODEL\.ARCH resnet18 MODEL\.SMALL"):
        PretrainTrainer(cfg).resume_or_start(False)


def test_start__contradicts_resume_from(images, weights, tmp_path):
    flags = ("--resume-from", "moco.pth.tar")
    with pytest.raises(ValueError, match=r"--resume-from moco\.pth\.tar cannot be combined with MODEL\.WEIGHTS"):
        run(images, tmp_path / "run", "MODEL.WEIGHTS", weights, flags=flags)
    assert not (tmp_path / "run").exists()


def filled(cfg: CfgNode) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the state before the first step, and this process's part of the first batch."""
    trainer = PretrainTrainer(cfg)
    trainer.resume_or_start(False)
    with EventStorage() as trainer.storage:
        trainer.before_train()
    return trainer.method.state_dict(), trainer.delivery.next()


def batches(cfg: CfgNode, first: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Make the batches of the stream one image at a time, from iteration ``first`` on."""
    data = build_data(cfg)
    data.sampler.start_iteration = first
    places = [place for place, _ in zip(data.sampler, range(count), strict=False)]
    made = [collate([data.dataset[place] for place in batch]) for batch in places]
    return [{name: normalize(v) if v.ndim == 4 else v for name, v in batch.items()} for batch in made]


def embed_slowly(state: dict[str, torch.Tensor], groups: list[torch.Tensor]) -> torch.Tensor:
    """Encode each group of images with torchvision's network and its own statistics; return unit vectors."""
    network = torchvision.models.resnet18(num_classes=DIM)
    network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), network.fc)
    network.load_state_dict({name.removeprefix("encoder_q."): value for name, value in state.items()}, strict=False)
    with torch.no_grad():
        vectors = torch.cat([network.train()(images) for images in groups])
    return vectors / vectors.pow(2).sum(dim=1, keepdim=True).sqrt()


@pytest.fixture(scope="module")
def queue_filled(images, weights, tmp_path_factory) -> tuple[CfgNode, tuple]:
    cfg = config(images, tmp_path_factory.mktemp("filled"), "MODEL.WEIGHTS", weights)
    return cfg, filled(cfg)


def test_fill__the_queue_holds_the_key_encoders_vectors(queue_filled):
    cfg, (state, first_batch) = queue_filled
    shuffle, keys = BatchShuffle(cfg.SEED), []
    for batch in batches(cfg, -3, 3):
        order = shuffle.draw(BATCH)
        shuffled = embed_slowly(state, list(batch["key"][order].chunk(GROUPS)))
        keys += [shuffled[order.tolist().index(image)] for image in range(BATCH)]
    assert state["queue_ptr"].item() == 3 * BATCH - QUEUE
    for number, key in list(enumerate(keys))[-QUEUE:]:
        torch.testing.assert_close(state["queue"][:, number % QUEUE], key, atol=1e-5, rtol=0)
    file = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    statistics = [name for name in file if "running_" in name]
    assert all(torch.equal(state[f"encoder_q.{name}"], file[name]) for name in statistics)
    assert not any(torch.equal(state[f"encoder_k.{name}"], file[name]) for name in statistics)
    # Training gets the same batches as without the weights.
    assert_equal_states(first_batch, batches(cfg, 0, 1)[0])


def fill_in_process(cfg: CfgNode) -> tuple[torch.Tensor, torch.Tensor]:
    state, first_batch = filled(cfg)
    return state["queue"], first_batch["index"]


def test_fill__two_processes_are_as_two_groups(queue_filled):
    cfg, (expected, _) = queue_filled
    cfg = cfg.clone()
    cfg.MODEL.BN_GROUPS = 1
    queues, places = zip(*run_in_processes(fill_in_process, cfg), strict=True)
    assert torch.equal(*queues)
    torch.testing.assert_close(queues[0], expected["queue"], atol=1e-5, rtol=0)
    assert torch.equal(torch.cat(places), batches(cfg, 0, 1)[0]["index"])


def test_fill__the_bank_holds_queries_of_all_images_that_an_epoch_has(images, weights, tmp_path):
    cfg = config(images, tmp_path, "METHOD", "memory_bank")
    noise = PretrainTrainer(cfg).method.state_dict()
    cfg.MODEL.WEIGHTS = str(weights)
    state, _ = filled(cfg)
    expected, seen = noise["bank"].clone(), set()
    for batch in batches(cfg, -3, 3):
        expected[batch["index"]] = embed_slowly(state, list(batch["query"].chunk(GROUPS)))
        seen |= set(batch["index"].tolist())
    torch.testing.assert_close(state["bank"], expected, atol=1e-5, rtol=0)
    assert len(seen) >= IMAGES // BATCH * BATCH
    assert torch.equal(state["_extra_state"], noise["_extra_state"]), "the draws of negatives are not shifted"


def test_resume__after_a_warm_start_is_bit_identical_and_fills_nothing(images, weights, tmp_path):
    changes = ("SOLVER.CHECKPOINT_PERIOD", 1, "LOG_PERIOD", 1)
    run(images, tmp_path / "whole", *changes, "MODEL.WEIGHTS", weights)
    copy_checkpoint(tmp_path / "whole", tmp_path / "part", "model_0000000.pth")
    (tmp_path / "part" / "config.yaml").write_text((tmp_path / "whole" / "config.yaml").read_text())
    run(images, tmp_path / "part", *changes, flags=("--resume",))  # without the weights, which it no longer needs
    found, whole = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("part", "whole"))
    assert_equal_states(found, whole)
    logs = {name: (tmp_path / name / "log.txt").read_text() for name in ("part", "whole")}
    assert "encoder_q, encoder_k initialised from" in logs["whole"]
    assert f"filling queue ({QUEUE} entries) with vectors of real images from 3 batches" in logs["whole"]
    assert "filling" not in logs["part"]
    assert f"the learning-rate warm-up takes {WARM_START} iterations, but the run has only 2" in logs["whole"]
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    rising = [0.03 * (iteration + 1) / (WARM_START + 1) for iteration in range(2)]
    assert [line["lr"] for line in lines] == pytest.approx(rising)


def test_resume__neither_needs_the_weights_nor_fills(images, tmp_path):
    cfg = config(images, tmp_path, "MODEL.WEIGHTS", tmp_path / "gone.pth")
    trainer = PretrainTrainer(cfg)
    trainer.checkpointer.save("model_0000000", iteration=0)
    trainer.resume_or_start(True)
    assert (trainer.start_iter, trainer.batches_to_fill) == (1, 0)


@pytest.mark.parametrize(("left", "iterations"), [((), WARM_START), (("last_checkpoint",), 0)])
def test_resume__decides_as_an_earlier_attempt_only_where_that_left_a_checkpoint(images, tmp_path, left, iterations):
    """The first run began without weights."""
    cfg = config(images, tmp_path, "SEED", 5)
    cfg.SOLVER.WARMUP_ITERS = 0
    (tmp_path / "config.yaml").write_text(cfg.dump())
    for name in left:
        (tmp_path / name).write_text("model_0000000.pth")
    again = config(images, tmp_path, "SEED", -1, "MODEL.WEIGHTS", "x.pth")
    start_run(again, resume=True)
    assert iterations == again.SOLVER.WARMUP_ITERS
    assert (again.SEED == 5) == bool(left)


def test_run__without_weights_is_the_plain_loop(images, tmp_path):
    cfg = config(images, tmp_path / "run")
    run(images, tmp_path / "run")
    torch.manual_seed(cfg.SEED)
    method = METHODS["moco"].from_config(cfg, DataFacts(size=IMAGES)).to(memory_format=torch.channels_last)
    trained = list(method.encoder_q.parameters())
    optimizer = torch.optim.SGD(trained, lr=0.03, momentum=0.9, weight_decay=1e-4)
    for batch in batches(cfg, 0, 2):
        optimizer.zero_grad()
        method(batch)["loss"].backward()
        optimizer.step()
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert_equal_states(saved["model"], method.state_dict())


@pytest.mark.parametrize(
    ("overrides", "iterations"),
    [
        ((), 0),
        (("MODEL.WEIGHTS", "x.pth"), WARM_START),
        (("MODEL.WEIGHTS", "x.pth", "SOLVER.WARMUP_ITERS", 0), 0),
        (("SOLVER.WARMUP_ITERS", 7), 7),
        (("METHOD", "supervised", "MODEL.WEIGHTS", "x.pth"), 0),
    ],
)
def test_warm_up__of_a_contrastive_method_that_starts_from_weights(overrides, iterations, tmp_path):
    cfg = config("images", tmp_path, *overrides)
    assert warmup_iterations(cfg) == iterations
    assert f"{WARM_START} iterations" in (Path(__file__).parents[2] / "docs" / "warm_start.md").read_text()
    rates = [lr_multiplier(cfg, 10**6, iteration) for iteration in range(WARM_START + 2)]
    expected = [min(1, (iteration + 1) / (iterations + 1)) for iteration in range(WARM_START + 2)]
    assert rates == pytest.approx(expected)
