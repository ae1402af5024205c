"""Exchange with a slow imitation of the original code: its model in DDP, its optimizer, its scripts that read files."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg as detectron2_cfg
from detectron2.engine import TrainerBase, hooks
from detectron2.modeling import build_backbone
from PIL import Image
from torch import nn

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.config.merge import merge_config
from mocodet.detection.weights.arrays import load_array_pickle
from mocodet.detection.weights.convert import convert_file
from mocodet.pretrain import run as cli
from mocodet.pretrain.build import build_optimizer
from mocodet.pretrain.checkpoint import PretrainCheckpointer
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.sampler import EpochSampler
from mocodet.pretrain.interchange import export_file, from_original, load_original, to_original
from mocodet.pretrain.methods import MomentumContrast
from mocodet.pretrain.methods.heads import build_encoder
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from mocodet.pretrain.schedules import RecipeLR
from mocodet.pretrain.trainer import PretrainTrainer
from tests.checkpoints import assert_equal_states
from tests.commands import pretrain

DIM, K, BATCH, MOMENTUM, TAU, LR = 8, 12, 4, 0.9, 0.2, 0.05
ITERATIONS = 3  # per epoch


class OriginalMoCo(nn.Module):
    """The model that the original code trains; on one device without shuffling."""

    def __init__(self, head: str, queue_size: int = K, arch: str = "resnet18") -> None:
        super().__init__()
        self.encoder_q = getattr(torchvision.models, arch)(num_classes=DIM)
        self.encoder_k = getattr(torchvision.models, arch)(num_classes=DIM)
        if head == "mlp":
            for encoder in (self.encoder_q, self.encoder_k):
                width = encoder.fc.weight.shape[1]
                encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
        for q, k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            k.data.copy_(q.data)
            k.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(DIM, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, query_images: torch.Tensor, key_images: torch.Tensor) -> torch.Tensor:
        q = F.normalize(self.encoder_q(query_images), dim=1)
        with torch.no_grad():
            for theta_q, theta_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                theta_k.data = theta_k.data * MOMENTUM + theta_q.data * (1 - MOMENTUM)
            k = F.normalize(self.encoder_k(key_images), dim=1)
        rows = [
            torch.cat([(one * key).sum().view(1), torch.stack([(one * old).sum() for old in self.queue.T.clone()])])
            for one, key in zip(q, k, strict=True)
        ]
        pointer = int(self.queue_ptr)
        for number, key in enumerate(k):
            self.queue[:, pointer + number] = key
        self.queue_ptr[0] = (pointer + len(k)) % self.queue.shape[1]
        return F.cross_entropy(torch.stack(rows) / TAU, torch.zeros(len(q), dtype=torch.long))


class Wrapped(nn.Module):
    """DDP, reduced to its names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        return self.module(*images)


class OriginalRun:
    def __init__(self, head: str = "mlp", **options: object) -> None:
        torch.manual_seed(0)
        self.model = Wrapped(OriginalMoCo(head, **options)).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), LR, momentum=0.9, weight_decay=1e-4)

    def step(self, query: torch.Tensor, key: torch.Tensor) -> None:
        loss = self.model(query, key)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def checkpoint(self, epoch: int, arch: str = "resnet18") -> dict:
        """The checkpoint that the original code saves at the end of an epoch."""
        state = {"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy({"epoch": epoch, "arch": arch, **state})


class OurRun:
    """The parts of a pre-training run that its checkpoints come from; no shuffling, as in the imitation."""

    def __init__(self, folder: Path, head: str = "mlp", queue_size: int = K, arch: str = "resnet18") -> None:
        torch.manual_seed(1)
        cfg = get_cfg()
        cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCHS = LR, 10
        encoder = build_encoder(arch, head, DIM)
        shuffle = BatchShuffle(0, enabled=False)
        self.model = MomentumContrast(
            encoder, shuffle, queue_size=queue_size, dim=DIM, momentum=MOMENTUM, temperature=TAU
        ).train()
        self.optimizer = build_optimizer(cfg, self.model)
        self.scheduler = RecipeLR(cfg, self.optimizer, ITERATIONS)
        self.trainer = TrainerBase()
        self.trainer.register_hooks([hooks.LRScheduler(self.optimizer, self.scheduler)])
        self.checkpointer = PretrainCheckpointer(
            self.model,
            str(folder),
            optimizer=self.optimizer,
            sampler=EpochSampler(ITERATIONS * BATCH + 1, BATCH, 0),
            trainer=self.trainer,
            shuffle=shuffle,
        )

    def step(self, query: torch.Tensor, key: torch.Tensor) -> None:
        loss = self.model({"query": query, "key": key})["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def load(self, path: Path) -> None:
        load_original(path, self.checkpointer, ITERATIONS)


def views(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(BATCH, 3, 32, 32, generator=generator) for _ in range(2)]


def save(content: object, path: Path, **kwargs: object) -> Path:
    torch.save(content, path, **kwargs)
    return path


def assert_same_step(ours: OurRun, original: OriginalRun) -> None:
    """The two sum in a different order, so the results of a step are equal up to rounding."""
    before = copy.deepcopy(original.model.module.state_dict())
    batch = views(99)
    ours.step(*batch)
    original.step(*batch)
    expected = original.model.module.state_dict()
    found = ours.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    moved = expected["encoder_q.layer1.0.conv1.weight"] - before["encoder_q.layer1.0.conv1.weight"]
    assert moved.abs().max() > 1e-3, "the step is far larger than the tolerance"
    trained = original.model.module.encoder_q.parameters()
    for mine, theirs in zip(ours.model.encoder_q.parameters(), trained, strict=True):
        buffers = ours.optimizer.state[mine]["momentum_buffer"], original.optimizer.state[theirs]["momentum_buffer"]
        torch.testing.assert_close(*buffers, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module", params=["fc", "mlp"])
def original(request: pytest.FixtureRequest) -> OriginalRun:
    run = OriginalRun(request.param)
    run.head = request.param
    for number in range(2):
        run.step(*views(number))
    return run


def test_load_original__continues_as_the_original_code_does(original, tmp_path, caplog):
    original = copy.deepcopy(original)
    path = save(original.checkpoint(epoch=2), tmp_path / "moco.pth.tar")
    ours = OurRun(tmp_path, original.head)
    generator = torch.get_rng_state()
    with caplog.at_level("WARNING", logger="mocodet.pretrain"):
        ours.load(path)
    assert torch.equal(torch.get_rng_state(), generator)
    assert "continuing at iteration 6 (epoch 2)" in caplog.text
    assert "start from SEED" in caplog.text

    assert ours.trainer.iter == 2 * ITERATIONS - 1
    assert ours.scheduler.last_epoch == 2 * ITERATIONS
    expected = original.model.module.state_dict()
    found = ours.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert found["queue_ptr"].item() == 2 * BATCH % K != 0
    trained = list(original.model.module.encoder_q.parameters())
    mine = list(ours.model.encoder_q.parameters())
    assert len(ours.optimizer.state) == len(mine) == len(trained)
    for one, other in zip(mine, trained, strict=True):
        buffers = ours.optimizer.state[one]["momentum_buffer"], original.optimizer.state[other]["momentum_buffer"]
        assert torch.equal(*buffers)
        assert buffers[1].abs().max() > 0
    assert_same_step(ours, original)


def test_export__continues_in_the_original_code(tmp_path):
    ours = OurRun(tmp_path)
    for number in range(2):
        ours.step(*views(number))
    ours.trainer.iter = 1
    ours.checkpointer.save("model", iteration=1)
    export_file(tmp_path / "model.pth", tmp_path / "moco.pth.tar")
    checkpoint = torch.load(tmp_path / "moco.pth.tar", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["arch"]) == (0, "resnet18")
    resumed = OriginalRun()
    resumed.model.load_state_dict(checkpoint["state_dict"])  # strict
    resumed.optimizer.load_state_dict(checkpoint["optimizer"])
    assert_same_step(ours, resumed)


def test_convert__original_there_and_back(original):
    checkpoint = original.checkpoint(epoch=7, arch="resnet50")
    back = to_original(from_original(checkpoint, 5), "resnet50", 5)
    assert back.pop("mocodet").keys() == {"trainer", "iteration"}
    assert_equal_states(back, checkpoint)


def test_from_original__numbers_of_an_old_pytorch(original):
    """Before PyTorch 1.6 parameters were numbered by their addresses, and SGD had fewer options."""
    checkpoint = original.checkpoint(epoch=1)
    expected = from_original(checkpoint, ITERATIONS)["optimizer"]
    optimizer = checkpoint["optimizer"]
    (group,) = optimizer["param_groups"]
    addresses = [140000000000 - 64 * (number * 37 % 1009) for number in group["params"]]
    assert len(set(addresses)) == len(addresses)
    optimizer["state"] = {addresses[number]: state for number, state in reversed(optimizer["state"].items())}
    known = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    optimizer["param_groups"] = [{**{key: group[key] for key in known}, "params": addresses}]
    found = from_original(checkpoint, ITERATIONS)["optimizer"]
    assert found["param_groups"][0] == expected["param_groups"][0]
    assert found["state"].keys() == expected["state"].keys()
    for place, state in expected["state"].items():
        assert torch.equal(found["state"][place]["momentum_buffer"], state["momentum_buffer"])


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """A small run's config; two iterations an epoch, a checkpoint after three and at the end, after four."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(18):
        noise = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number:02}.png")
    path = folder / "small.yaml"
    path.write_text(
        f"""
        OUTPUT_DIR: {folder / "run"}
        DATA: {{ROOT: {folder / "images"}, NUM_WORKERS: 0}}
        AUGMENTATION: {{CROP_SIZE: 32}}
        MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
        CONTRAST: {{QUEUE_SIZE: 20, MOMENTUM: 0.9}}
        SOLVER: {{IMS_PER_BATCH: 8, MAX_EPOCHS: 2, PRECISION: float32, CHECKPOINT_PERIOD: 3}}
        """
    )
    return path


@pytest.fixture(scope="module")
def run(config) -> Path:
    pretrain(["--config-file", str(config)])
    return config.parent / "run"


@pytest.fixture(scope="module")
def exported(run) -> Path:
    """The checkpoint after three iterations in the original format."""
    path = run.parent / "exported" / "moco.pth.tar"
    export_file(run / "model_0000002.pth", path)
    return path


def config_of(path: Path, *overrides: object):
    cfg = get_cfg()
    merge_config(cfg, str(path), [*map(str, overrides)])
    return cfg


def test_export__round_trip_is_bit_identical(run, exported):
    whole = torch.load(run / "model_0000002.pth", weights_only=True)
    assert {"model", "optimizer", "sampler", "trainer", "shuffle", "rng", "iteration"} <= whole.keys()
    back = from_original(load_torch_file(exported), iterations_per_epoch=2)
    assert_equal_states({key: back[key] for key in whole}, whole)
    assert back.keys() == whole.keys()
    assert back["model"]["queue_ptr"].item() == 3 * 8 % 20
    assert torch.load(exported, weights_only=True)["epoch"] == 1, "only half of the second epoch is done"
    assert not list(exported.parent.glob(".*"))


def test_resume_from__an_export_from_mid_epoch_continues_exactly(config, run, exported, tmp_path):
    torch.manual_seed(99)  # earlier random numbers of the process must not matter
    command = ["--config-file", str(config), "--resume-from", str(exported)]
    pretrain([*command, "OUTPUT_DIR", str(tmp_path / "run")])
    found, expected = (torch.load(path / "model_final.pth", weights_only=True) for path in (tmp_path / "run", run))
    assert_equal_states(found, expected)
    assert not (tmp_path / "run" / "model_0000002.pth").is_file(), "the run must not have started again"


def test_export_flag__writes_the_last_checkpoint_and_nothing_else(config, run, tmp_path, monkeypatch):
    def start(*_: object) -> None:
        raise AssertionError("no process must be started")

    monkeypatch.setattr(cli, "launch", start)
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("last_checkpoint", "model_final.pth"):
        (folder / name).hardlink_to(run / name)
    command = ["--config-file", str(config), "--num-gpus", "8", "--export", str(tmp_path / "moco.pth.tar")]
    pretrain([*command, "OUTPUT_DIR", str(folder)])
    whole = torch.load(run / "model_final.pth", weights_only=True)
    back = from_original(load_torch_file(tmp_path / "moco.pth.tar"), iterations_per_epoch=2)
    assert_equal_states({key: back[key] for key in whole}, whole)
    assert sorted(path.name for path in folder.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_export_flag__refusals(config, run, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    command = ["--config-file", str(config), "--export", str(tmp_path / "moco.pth.tar")]
    for flags in (["--resume"], ["--resume-from", "other.pth.tar"]):
        with pytest.raises(SystemExit) as caught:
            pretrain([*command, *flags])
        assert caught.value.code == 2
        assert (
            "--export does not train, so it cannot be combined with --resume or --resume-from"
            in capsys.readouterr().err
        )
    with pytest.raises(SystemExit, match=r"^error: .*new contains no checkpoint"):
        pretrain([*command, "OUTPUT_DIR", str(tmp_path / "new")])
    with pytest.raises(SystemExit):
        pretrain(["--config-file", str(config), "--export", str(tmp_path)])
    assert "is a folder; choose a writable path" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match=r"^error: torchrun started --export in 2 processes; run it without torchrun$"):
        pretrain(command)
    assert not list(tmp_path.iterdir())


def test_export_flag__takes_the_last_checkpoint(config, run, tmp_path, monkeypatch):
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")
    output = tmp_path / "new" / "moco.pth.tar"
    pretrain(["--config-file", str(config), "--export", str(output)])
    found = torch.load(output, weights_only=True)
    assert (found["epoch"], found["mocodet"]["iteration"]) == (2, 3)
    command = ["--config-file", str(config), "--export", str(tmp_path / "other")]
    with pytest.raises(FileNotFoundError, match="empty contains no checkpoint; specify the OUTPUT_DIR of a run"):
        pretrain([*command, "OUTPUT_DIR", str(tmp_path / "empty")])
    for method in ("dense", "end_to_end", "memory_bank", "supervised"):
        with pytest.raises(ValueError, match=f"METHOD '{method}' cannot be exported.* read mocodet's .pth"):
            pretrain([*command, "METHOD", method])
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(ValueError, match="METHOD 'dense' cannot be exported"):  # the file's, not the config's
        to_original({"method": {"name": "dense", "encoder": "encoder_q"}}, "resnet18", 1)


def query_features(run: Path, images: torch.Tensor) -> torch.Tensor:
    """Pooled features of the query encoder in the checkpoint before its export."""
    state = torch.load(run / "model_0000002.pth", weights_only=True)["model"]
    encoder = build_encoder("resnet18", "mlp", DIM)
    encoder.load_state_dict(
        {name.removeprefix("encoder_q."): value for name, value in state.items() if name.startswith("encoder_q.")}
    )
    encoder.fc = nn.Identity()
    with torch.no_grad():
        return encoder.eval()(images)


def test_export__original_linear_evaluation_reads_it(run, exported):
    state_dict = torch.load(exported, weights_only=True)["state_dict"]
    for name in list(state_dict):
        if name.startswith("module.encoder_q") and not name.startswith("module.encoder_q.fc"):
            state_dict[name[len("module.encoder_q.") :]] = state_dict[name]
        del state_dict[name]
    classifier = torchvision.models.resnet18()
    message = classifier.load_state_dict(state_dict, strict=False)
    assert set(message.missing_keys) == {"fc.weight", "fc.bias"}
    assert not message.unexpected_keys
    classifier.fc = nn.Identity()
    images = views(0)[0]
    with torch.no_grad():
        torch.testing.assert_close(classifier.eval()(images), query_features(run, images))


def test_export__original_conversion_script_reads_it(run, exported, tmp_path):
    weights = {}
    for name, tensor in torch.load(exported, weights_only=True)["state_dict"].items():
        if not name.startswith("module.encoder_q."):
            continue
        new = name.replace("module.encoder_q.", "")
        new = new if "layer" in new else f"stem.{new}"
        for number in (1, 2, 3, 4):
            new = new.replace(f"layer{number}", f"res{number + 1}").replace(f"bn{number}", f"conv{number}.norm")
        weights[new.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = tensor.numpy()
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "MOCO", "matching_heuristics": True}))

    cfg = detectron2_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.OUT_FEATURES = "BN", ["res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    backbone = build_backbone(cfg).eval()
    DetectionCheckpointer(backbone).load(str(path))
    images = views(0)[0]
    with torch.no_grad():
        pooled = backbone(images)["res5"].mean(dim=(2, 3))
    torch.testing.assert_close(pooled, query_features(run, images), rtol=1e-4, atol=1e-5)


def test_export__our_converter_reads_it(run, exported, tmp_path):
    contents = []
    for source in (run / "model_0000002.pth", exported):
        conversion = convert_file(source, tmp_path / "weights.pkl")
        contents.append(load_array_pickle(tmp_path / "weights.pkl")["model"])
    ours, exports = contents
    assert ours.keys() == exports.keys()
    assert all(np.array_equal(ours[name], exports[name]) for name in ours)
    assert "original format" in conversion.encoder.kind


def test_export__a_failed_write_leaves_the_former_file(run, tmp_path, monkeypatch):
    output = tmp_path / "moco.pth.tar"
    output.write_text("former")

    def half(_: object, handle) -> None:
        handle.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="the disk is full"):
        export_file(run / "model_0000002.pth", output)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["former"]


def test_export__refusals(run, tmp_path):
    with pytest.raises(ValueError, match="is the checkpoint itself; export to another file"):
        export_file(run / "model_final.pth", run / "model_final.pth")
    with pytest.raises(ValueError, match="is a folder; expected an output file"):
        export_file(run / "model_final.pth", tmp_path)
    bank = torch.load(run / "model_final.pth", weights_only=True)
    bank["model"] = {name: value for name, value in bank["model"].items() if name.startswith("encoder_q.")}
    bank["model"]["bank"] = torch.zeros(1)
    with pytest.raises(
        ValueError,
        match=r"bank\.pth: does not contain a state of MoCo v1 or v2 .* encoder_k\.\*, queue, queue_ptr missing",
    ):
        export_file(save(bank, tmp_path / "bank.pth"), tmp_path / "moco.pth.tar")
    with pytest.raises(ValueError, match=r"tor\.pth: is not a checkpoint .*: optimizer, iteration, sampler missing"):
        export_file(save({"model": {}}, tmp_path / "detector.pth"), tmp_path / "moco.pth.tar")
    assert not (tmp_path / "moco.pth.tar").exists()


def put(name: str, value: object, place: tuple | None = None):
    """Return a function that changes a tensor of a checkpoint, as a whole or at one place; names are ours."""

    def change(tensors: dict[str, torch.Tensor], prefix: str) -> None:
        if place is None:
            tensors[prefix + name] = value
        else:
            tensors[prefix + name][place] = value

    return change


NORM = "encoder_k.bn1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("queue", float("nan"), (1, 2)), r"queue contains NaN or infinite values"),
        (put("queue", torch.zeros(DIM, K).half()), r"queue is torch\.float16, .*; expected a dense tensor of float32"),
        (put("queue", torch.zeros(DIM)), r"queue has shape \(8,\); expected C x K"),
        (put("queue_ptr", torch.tensor([K])), r"queue_ptr is \[12\]; expected one index into the queue, 0 to 11"),
        (put("queue_ptr", torch.tensor([-1])), r"queue_ptr is \[-1\]; expected"),
        (put("queue_ptr", torch.tensor([0, 4])), r"queue_ptr is \[0, 4\]; expected"),
        (put("queue_ptr", torch.tensor([4.0])), r"queue_ptr is torch\.float32, .*; expected a dense tensor of int64"),
        (put(f"{NORM}.weight", float("inf"), (3,)), rf"{NORM}\.weight contains NaN or infinite values"),
        (put(f"{NORM}.running_var", -1.0, (3,)), rf"{NORM}\.running_var contains negative variances"),
        (put(f"{NORM}.bias", "none"), rf"{NORM}\.bias is a str; expected a tensor"),
    ],
)
def test_values__refused_in_both_directions(change, message):
    checkpoint = OriginalRun().checkpoint(epoch=1)
    ours = from_original(copy.deepcopy(checkpoint), ITERATIONS)
    to_original(ours, "resnet18", ITERATIONS)
    change(checkpoint["state_dict"], "module.")
    with pytest.raises(ValueError, match=rf"^module\.{message}"):
        from_original(checkpoint, ITERATIONS)
    change(ours["model"], "")
    with pytest.raises(ValueError, match=rf"^{message}"):
        to_original(ours, "resnet18", ITERATIONS)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"momentum_buffer": torch.tensor(float("nan"))},
            r"momentum of encoder_q\.conv1\.weight contains NaN or infinite values",
        ),
        ({"momentum_buffer": torch.tensor(0.0).double()}, r"momentum of encoder_q\.conv1\.weight is torch\.float64"),
        ({"momentum_buffer": torch.zeros(3)}, r"momentum of encoder_q\.conv1\.weight has shape \(3,\); expected \(64"),
        ({"exp_avg": torch.tensor(0.0)}, r"more state for encoder_q\.conv1\.weight than SGD's momentum_buffer"),
        (None, r"more state for encoder_q\.conv1\.weight than SGD's momentum_buffer"),
    ],
)
def test_momentum__refused_in_both_directions(state, message):
    if isinstance(state, dict):  # the same value for all places
        state = {name: value.expand(64, 3, 7, 7) if value.ndim == 0 else value for name, value in state.items()}
    checkpoint = OriginalRun().checkpoint(epoch=1)
    ours = from_original(copy.deepcopy(checkpoint), ITERATIONS)
    for content, convert in ((checkpoint, from_original), (ours, lambda c, n: to_original(c, "resnet18", n))):
        content["optimizer"]["state"][0] = state
        with pytest.raises(ValueError, match=message):
            convert(content, ITERATIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 2 * K}, r"does not fit this config's model: queue has shape \(8, 12\), expected \(8, 24\)$"),
        ({"head": "fc"}, r"does not fit .*: missing encoder_q\.fc\.weight, .* unexpected encoder_q\.fc\.0\.weight"),
        ({"arch": "resnet34"}, r"does not fit .* missing encoder_q\.layer1\.2\.conv1\.weight, .* and \d+ more$"),
    ],
)
def test_load_original__refuses_a_misfit_before_anything_changes(tmp_path, options, message):
    path = save(OriginalRun().checkpoint(epoch=1), tmp_path / "moco.pth.tar")
    ours = OurRun(tmp_path, **options)
    before = copy.deepcopy(ours.model.state_dict())
    with pytest.raises(ValueError, match=rf"moco\.pth\.tar: the checkpoint {message}"):
        ours.load(path)
    for name, tensor in ours.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_load_original__refuses_an_export_of_more_processes(config, exported, tmp_path):
    checkpoint = torch.load(exported, weights_only=True)
    checkpoint["mocodet"]["rng"] *= 2
    path = save(checkpoint, tmp_path / "two.pth.tar")
    trainer = PretrainTrainer(config_of(config, "OUTPUT_DIR", tmp_path))
    with pytest.raises(
        ValueError, match=r"two\.pth\.tar: exported from a run with 2 process\(es\), but this run has 1"
    ):
        load_original(path, trainer.checkpointer, 2)
    # As docs/interchange.md says.
    del checkpoint["mocodet"]
    load_original(save(checkpoint, path), trainer.checkpointer, 2)
    assert trainer.iter == 1
    assert torch.equal(trainer.method.queue, checkpoint["state_dict"]["module.queue"])


def test_load_original__refuses_an_export_of_other_data_before_anything_changes(config, exported, tmp_path):
    trainer = PretrainTrainer(config_of(config, "OUTPUT_DIR", tmp_path, "SEED", 5))
    before = copy.deepcopy(trainer.method.state_dict())
    with pytest.raises(
        ValueError, match=r"moco\.pth\.tar: the checkpoint was written with .* resume with the same data"
    ):
        load_original(exported, trainer.checkpointer, 2)
    for name, tensor in trainer.method.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_load_original__old_files_and_damaged_ones(original, tmp_path):
    checkpoint = original.checkpoint(epoch=1)
    path = save(checkpoint, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    ours = OurRun(tmp_path, original.head)
    ours.load(path)
    assert torch.equal(ours.model.queue, checkpoint["state_dict"]["module.queue"])
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"old\.pth\.tar cannot be read as a checkpoint"):
        ours.load(path)
    with pytest.raises(FileNotFoundError):
        ours.load(tmp_path / "none.pth.tar")


def drop_buffer_of_q(checkpoint: dict) -> None:
    checkpoint["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)


def give_momentum_to_k(checkpoint: dict) -> None:
    state = checkpoint["optimizer"]["state"]
    state[len(state)] = state[0]


def optimize_one_encoder(checkpoint: dict) -> None:
    params = checkpoint["optimizer"]["param_groups"][0]["params"]
    del params[len(params) // 2 :]


def forget_a_group(checkpoint: dict) -> None:
    checkpoint["optimizer"]["param_groups"] = []


def rename_to_v3(checkpoint: dict) -> None:
    state = checkpoint["state_dict"]
    for name in list(state):
        value = state.pop(name)
        if "queue" not in name:
            state[name.replace("encoder_q", "base_encoder").replace("encoder_k", "momentum_encoder")] = value


def name_a_stranger(checkpoint: dict) -> None:
    checkpoint["state_dict"]["stranger"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda c: c.pop("optimizer"),
            r"is not in the original format: optimizer missing, found epoch, arch, state_dict",
        ),
        (lambda c: c.update(state_dict=3), "state_dict is a int; expected a dict"),
        (lambda c: c.update(epoch="3"), "epoch is '3'; expected the number of completed epochs"),
        (lambda c: c.update(mocodet=[]), "'mocodet' is not in the format that mocodet exports"),
        (drop_buffer_of_q, r"momentum of encoder_q.conv1.weight has shape \(1,\); expected \(64, 3, 7, 7\)"),
        (give_momentum_to_k, "contains momentum for the key encoder"),
        (optimize_one_encoder, r"covers 6\d parameters; expected 1\d\d for both encoders"),
        (forget_a_group, "is not the state of an SGD with one parameter group"),
        (rename_to_v3, r"module\.encoder_q\.\*, .* found module\.base_encoder, module\.momentum_encoder"),
        (name_a_stranger, "names that do not start with 'module.': stranger"),
    ],
)
def test_from_original__refusals(original, damage, message):
    checkpoint = original.checkpoint(epoch=1)
    damage(checkpoint)
    with pytest.raises(ValueError, match=message):
        from_original(checkpoint, ITERATIONS)


def test_load_original__our_own_checkpoint_is_not_the_original_format(run, tmp_path):
    with pytest.raises(ValueError, match=r"model_final\.pth: is not in the original format: epoch, arch"):
        OurRun(tmp_path).load(run / "model_final.pth")


def test_from_original__no_dict():
    with pytest.raises(ValueError, match="contains a list; expected a dict"):
        from_original([], 2)
