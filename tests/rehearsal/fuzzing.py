"""Generates faulty inputs for every reader, and checks that each is either read or properly rejected.

A reader rejects an input properly if it raises an exception that the command line reports in one line, and if the
message names the file.
"""

import contextlib
import copy
import io
import json
import pickle
import shutil
import signal
import string
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_config
from detectron2.engine import TrainerBase, hooks
from torch import nn

from mocodet import configs
from mocodet.common.config.merge import merge_config
from mocodet.common.encoders.reading import read_encoder
from mocodet.common.errors import USER_ERRORS, message_of
from mocodet.common.matches import MATCHES_FILE, read_matches
from mocodet.common.report.run import _contents as contents
from mocodet.common.study.aggregate import read_metrics
from mocodet.common.study.recipe import Recipe
from mocodet.common.study.spec import STUDY_FILE, Detector, Init, Study, keep_study, kept_study, read_study
from mocodet.common.study.state import OUTCOME_FILE, RECIPE_FILE, look
from mocodet.common.study.trials import plan
from mocodet.detection import add_moco_config
from mocodet.detection.data import register_datasets
from mocodet.detection.training.resuming import check_resumed_classes, seed_of_run
from mocodet.detection.training.trainer import Trainer
from mocodet.detection.weights.arrays import load_array_pickle
from mocodet.pretrain.checkpoint import PretrainCheckpointer
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.inaturalist import read_inaturalist
from mocodet.pretrain.data.sampler import EpochSampler
from mocodet.pretrain.data.shards import ShardIndex, read_images
from mocodet.pretrain.evaluation.linear import LinearSweep, Protocol
from mocodet.pretrain.evaluation.linear import _resume as resume_sweep
from mocodet.pretrain.methods.moco import MomentumContrast
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from mocodet.pretrain.schedules import RecipeLR
from mocodet.pretrain.signs import SignRecord
from tests.common.checks.test_any_content import VALUES
from tests.common.report.made_up import write_study
from tests.detection.data.mutations import KINDS, write
from tests.detection.tiny import empty_config, make_voc, options
from tests.detection.weights.test_convert_damaged import checkpoint as small_checkpoint
from tests.detection.weights.test_convert_damaged import saved, small_state

LIMIT = 20.0  # seconds per input
LIKELY = (0, 1, "1", 1.0, "a", ["a"], {"a": 1}, "pipe:true", "../a.tar", "https://:0/a.tar", -(10**20), "\u732b")


class Reader(NamedTuple):
    """The functions that generate and read the inputs of a reader.

    Attributes:
        draw: writes an input to an empty folder and returns its files, one of which an error message must name.
        read: reads these files.
    """

    draw: Callable[[Random, Path], list[Path]]
    read: Callable[[list[Path]], object]


class HangError(BaseException):
    """Raised when an input takes too long. No reader may catch this exception."""


def judge(reader: Reader, rng: Random, folder: Path) -> str:
    """Generate an input in ``folder``, read it, and return "read" or "refused".

    Raises:
        HangError: reading took longer than `LIMIT`.
        AssertionError: the error message has multiple lines or does not name the file.
        Exception: the reader raised any other exception.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = reader.draw(rng, folder)
    began = time.monotonic()
    try:
        with _limited(LIMIT):
            reader.read(files)
    except USER_ERRORS as error:
        message = message_of(error)
        assert "\n" not in message, message
        assert any(str(file) in message for file in files), f"no file is named: {message}"
        return "refused"
    finally:
        if time.monotonic() - began > LIMIT:
            raise HangError
    return "read"


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def spoilt_bytes(rng: Random, data: bytes) -> bytes:
    """Flip, truncate, repeat, remove or replace some bytes."""
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randint(0, len(data))
        length = min(rng.choice([1, 2, 8, 100, len(data)]), len(data) - place)
        junk = rng.choice([rng.randbytes(length), b"\0" * length, b"\xff" * length, b"[" * 5000, b"9" * 5000, b"-1"])
        match rng.choice(["flip", "flip", "cut", "repeat", "remove", "exchange", "insert"]):
            case "flip" if place < len(data):
                data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
            case "cut":
                data = data[:place]
            case "repeat":
                data = data[: place + length] + data[place:]
            case "remove":
                data = data[:place] + data[place + length :]
            case "exchange":
                data = data[:place] + junk + data[place + length :]
            case "insert":
                data = data[:place] + junk + data[place:]
    return data


def spoilt(rng: Random, content: Any, values: tuple[Any, ...] = (*VALUES, *LIKELY)) -> Any:
    """Replace, remove, repeat or rename a few values inside nested containers, or replace the outermost container."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        ways = list(_places(content))
        if not ways or rng.random() < 0.02:
            return copy.deepcopy(rng.choice(values))
        *way, last = rng.choice(ways)
        parent = content
        for key in way:
            parent = parent[key]
        match rng.choice(["exchange", "exchange", "remove", "repeat", "rename"]):
            case "remove":
                del parent[last]
            case "repeat" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
            case "rename" if isinstance(parent, dict):
                parent[rng.choice(["a", "get_lr", 0, "step", str(last) * 2])] = parent.pop(last)
            case _:
                parent[last] = copy.deepcopy(rng.choice(values))
    return content


def _places(content: object, path: tuple = ()) -> Iterator[tuple]:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from _places(value, (*path, key))


def spoilt_json(rng: Random, content: object) -> bytes:
    """Encode content as JSON in one of its encodings, with faults in the values or the bytes."""
    if rng.randrange(4):
        content = spoilt(rng, content)
    data = json.dumps(content, ensure_ascii=rng.random() < 0.5).encode(
        rng.choice(["utf-8"] * 9 + ["utf-16"]), "replace"
    )
    return data if rng.randrange(3) else spoilt_bytes(rng, data)


def spoilt_text(rng: Random, text: str) -> bytes:
    """Replace some words of a text and, in some cases, some of its bytes."""
    words = text.split(" ")
    others = ["&a", "*a", "!!python/name:os.system", "<<:", "{", "]", "'", "\t", "\n", "- ", ": ", "nan", "1e400", "~"]
    others += ["2001-13-99", "0x", "!!binary", "%", "|", "\0", "_BASE_:", "http://127.0.0.1:9/a.yaml", "9" * 5000]
    for _ in range(rng.choice([0, 1, 2, 5])):
        place = rng.randrange(len(words))
        words[place] = rng.choice([rng.choice(others), rng.choice(words), words[place] + rng.choice(string.printable)])
    data = " ".join(words).encode()
    return data if rng.randrange(3) else spoilt_bytes(rng, data)


def put(path: Path, data: bytes) -> Path:
    """Write a file, and create its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@cache
def _small_checkpoint() -> dict[str, Any]:
    return small_checkpoint()


@cache
def _checkpoint_files() -> list[tuple[str, bytes]]:
    """Return valid files in each format that the converter reads."""
    tensors = {name: torch.ones(3) for name in list(small_state(""))[:9]}
    arrays = {"model": {"stem.conv1.weight": np.ones((2, 3), np.float32)}, "__author__": "me"}
    return [
        ("in.pth", saved(_small_checkpoint())),
        ("in.pth", saved(_small_checkpoint(), zipped=False)),
        ("in.safetensors", safetensors.torch.save(tensors)),
        ("in.pkl", pickle.dumps(arrays, protocol=2)),
    ]


TENSORS = (torch.ones(3), torch.tensor(float("nan")), torch.ones(2, 0), torch.ones(64, dtype=torch.int8), torch.ones(1))


def draw_checkpoint(rng: Random, folder: Path) -> list[Path]:
    """Write a checkpoint with damaged bytes or damaged content."""
    if rng.randrange(2):
        name, data = rng.choice(_checkpoint_files())
        return [put(folder / name, spoilt_bytes(rng, data))]
    content = spoilt(rng, _small_checkpoint(), (*VALUES, *LIKELY, *TENSORS))
    return [put(folder / "in.pth", saved(content))]


def read_checkpoint(files: list[Path]) -> None:
    """Find the encoder in a checkpoint, as the converter does before the conversion."""
    load_array_pickle(files[0]) if files[0].suffix == ".pkl" else read_encoder(files[0])


class SmallRun(TrainerBase):
    """A pre-training run reduced to the objects that its checkpoints contain, which can take a step."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        torch.manual_seed(0)
        cfg = get_cfg()
        cfg.SOLVER.IMS_PER_BATCH = 4
        encoder = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        self.method = MomentumContrast(encoder, BatchShuffle(seed=0), queue_size=6, dim=2)
        trained = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.scheduler = RecipeLR(cfg, self.optimizer, 3)
        self.register_hooks([hooks.LRScheduler(self.optimizer, self.scheduler)])
        states = {
            "optimizer": self.optimizer,
            "sampler": EpochSampler(12, 4, 0),
            "signs": SignRecord(),
            "trainer": self,
        }
        self.checkpointer = PretrainCheckpointer(self.method, str(folder), **states, **self.method.extra_state())

    def step(self) -> None:
        """Update the parameters, the schedule and the keys."""
        for parameter in self.optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.scheduler.step()
        self.method.dequeue_and_enqueue(torch.ones(4, 2), self.method.queue, self.method.queue_ptr)
        torch.rand(2, generator=self.method.shuffle.generator)
        range(self.iter + 1, 9)


@cache
def _run_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        run = SmallRun(Path(folder))
        run.step()
        run.checkpointer.save("model_0000000", iteration=0)
        return Path(folder, "model_0000000.pth").read_bytes()


def draw_resumed(rng: Random, folder: Path) -> list[Path]:
    """Write the checkpoint of a run with some damaged values."""
    content = torch.load(io.BytesIO(_run_checkpoint()), weights_only=False)
    content["optimizer"]["param_groups"] = list(content["optimizer"]["param_groups"])
    adam = torch.optim.AdamW([torch.ones(1)]).state_dict()
    content = spoilt(rng, content, (*VALUES, *LIKELY, *TENSORS, adam))
    put(folder / "last_checkpoint", b"model_0000000.pth")
    return [put(folder / "model_0000000.pth", saved(content))]


def read_resumed(files: list[Path]) -> None:
    """Resume, and take a step."""
    run = SmallRun(files[0].parent)
    run.checkpointer.resume()
    run.step()
    run.checkpointer.save("model_0000001", iteration=run.iter)


class OneLayer(nn.Module):
    """A model with the attributes that fine-tuning checkpoints record."""

    input_format = "BGR"

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)


class SmallTuning(Trainer):
    """A fine-tuning run of `OneLayer`, which can take a step."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model."""
        torch.manual_seed(0)
        return OneLayer()

    def take_step(self) -> None:
        """Update the parameters and the schedule, and request the next images."""
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        self.scheduler.step()
        next(iter(self.data_loader.batch_sampler))


@cache
def _tuning_settings() -> tuple[CfgNode, tempfile.TemporaryDirectory]:
    """Return a config and the folder of its data, which exists until the process ends."""
    folder = tempfile.TemporaryDirectory()
    train, test = make_voc(Path(folder.name), 2), make_voc(Path(folder.name), 1, "test")
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path("pascal_voc_R_50_DC5_24k_random.yaml")))
    cfg.merge_from_list(options(Path(), train, test, SEED=-1))
    register_datasets(cfg)
    return cfg, folder


def tuning_in(folder: Path) -> SmallTuning:
    """Start or resume a fine-tuning run in a folder, as the command does."""
    cfg = _tuning_settings()[0].clone()
    cfg.OUTPUT_DIR = str(folder)
    check_resumed_classes(cfg)
    cfg.SEED = seed_of_run(cfg)
    run = SmallTuning(cfg)
    run.resume_or_load(resume=True)
    return run


@cache
def tuned_checkpoint() -> bytes:
    """Return the checkpoint of a fine-tuning run after its first step."""
    with tempfile.TemporaryDirectory() as folder:
        run = tuning_in(Path(folder))
        run.take_step()
        run.checkpointer.save("model_0000000", iteration=0)
        return Path(folder, "model_0000000.pth").read_bytes()


def draw_tuned(rng: Random, folder: Path) -> list[Path]:
    """Write the checkpoint of a fine-tuning run with some damaged values."""
    content = torch.load(io.BytesIO(tuned_checkpoint()), weights_only=True)
    put(folder / "last_checkpoint", b"model_0000000.pth")
    return [put(folder / "model_0000000.pth", saved(spoilt(rng, content, (*VALUES, *LIKELY, *TENSORS))))]


def read_tuned(files: list[Path]) -> None:
    """Resume, and take a step."""
    run = tuning_in(files[0].parent)
    if run.start_iter < run.max_iter:
        run.take_step()
    run.checkpointer.save("model_0000001", iteration=run.iter)


PROTOCOL = Protocol(4, 8, steps=(2,), seed=1)
IDENTITY = {"mode": "cached", "size": 32, "grid": [[0.1, 0.0], [1.0, 0.1]], "protocol": {"epochs": 4, "steps": [2]}}


def _sweep() -> LinearSweep:
    return LinearSweep([(0.1, 0.0), (1.0, 0.1)], 3, 2, PROTOCOL)


def draw_linear(rng: Random, folder: Path) -> list[Path]:
    """Write the state of a linear evaluation with some damaged values."""
    sweep = _sweep()
    sweep.step(torch.ones(2, 3), torch.tensor([0, 1]))
    content = {"epoch": 1, "identity": IDENTITY, "sweep": sweep.state_dict()}
    return [put(folder / "state.pth", saved(spoilt(rng, content, (*VALUES, *LIKELY, *TENSORS))))]


def read_linear(files: list[Path]) -> None:
    """Resume the evaluation, and take a step."""
    sweep = _sweep()
    resume_sweep(sweep, files[0], IDENTITY)
    sweep.step(torch.ones(2, 3), torch.tensor([0, 1]))


def draw_yaml(rng: Random, folder: Path) -> list[Path]:
    """Write a config of pre-training or detection and its base, with faults in both."""
    base = spoilt_text(
        rng, "SEED: 3\nSOLVER: &s\n  BASE_LR: 1e-3\n  IMS_PER_BATCH: 4\n  STEPS: [1, 2]\nOUTPUT_DIR: 'a b'\n"
    )
    top = "_BASE_: base.yaml\nMODEL:\n  DEVICE: cpu\n  WEIGHTS: ''\nSOLVER: {WEIGHT_DECAY: 0, MOMENTUM: 0.5} # end\n"
    files = [
        put(folder / "base.yaml", base),
        put(folder / f"{rng.choice(['pretrain', 'train'])}.yaml", spoilt_text(rng, top)),
    ]
    return files[::-1]


def read_yaml(files: list[Path]) -> None:
    """Merge a config into the defaults of pre-training or detection."""
    cfg = get_cfg() if files[0].stem == "pretrain" else detectron2_config()
    if files[0].stem == "train":
        add_moco_config(cfg)
    merge_config(cfg, str(files[0]), [])


@cache
def _shard() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 700
            archive.addfile(info, io.BytesIO(bytes(700)))
    return written.getvalue()


def draw_shards(rng: Random, folder: Path) -> list[Path]:
    """Write an index of shards and its first shard, one of which is damaged."""
    content = {
        "version": 1,
        "shards": [{"name": "a.tar", "images": 3, "bytes": 2100}, {"name": "b.tar", "images": 3, "bytes": 9}],
    }
    shard, index = _shard(), json.dumps(content).encode()
    if rng.randrange(2):
        index = spoilt_json(rng, content)
    else:
        shard = spoilt_bytes(rng, shard)
    put(folder / "b.tar", _shard())
    return [put(folder / "index.json", index), put(folder / "a.tar", shard)]


def read_shards(files: list[Path]) -> None:
    """Open the index, then read the first shard."""
    ShardIndex(str(files[0])).digest()
    for _ in read_images(str(files[1])):
        pass


def draw_inaturalist(rng: Random, folder: Path) -> list[Path]:
    """Write a damaged annotation file."""
    content = {
        "images": [{"id": n, "file_name": f"{n % 2}/{n}.jpg"} for n in range(4)],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2} for n in range(4)],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(2)],
    }
    for image in content["images"]:
        put(folder / "images" / str(image["file_name"]), b"")
    return [put(folder / "train.json", spoilt_json(rng, content))]


def read_labels(files: list[Path]) -> None:
    """Find the images and their classes."""
    read_inaturalist(files[0].parent / "images", files[0])


YAML_STUDY = """NAME: toy
DETECTORS:
  A: {CONFIG: toy_R_18_FPN.yaml, OPTS: {SOLVER.MAX_ITER: 2}}
INITS:
  moco: {WEIGHTS: '' , OPTS: {MODEL.DEVICE: cpu}}
  random:
REFERENCE: random
SEEDS: [0, 2]
FRACTIONS: [1.0, 0.1]
"""


def _recipe() -> Recipe:
    return {"config": "a.yaml", "settings": {"SOLVER.MAX_ITER": 9}, "weights": {"path": "a.pth", "sha256": None}}


@cache
def _results() -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        content = write_study(
            Path(folder), detectors=["FPN"], fractions=[1.0], seeds=1, levels={"random": 0.4, "moco": 0.6}, failed=None
        )
        return content, next(Path(folder).rglob(MATCHES_FILE)).read_bytes()


def draw_study(rng: Random, folder: Path) -> list[Path]:
    """Write a damaged version of one of the files of a study, or of its STUDY.yaml."""
    results, matches = _results()
    outcome = {"status": "finished", "reason": None, "metrics": {"bbox/AP": 3.0}, "seconds": 1.5, "whole": True}
    metrics = {"iteration": 9, "bbox/AP": 3.0, "bbox/AP50": 4.0, "bbox/AP75": 2.0}
    match rng.choice(
        [RECIPE_FILE, OUTCOME_FILE, "metrics.json", STUDY_FILE, "results.json", MATCHES_FILE, "study.yaml"]
    ):
        case "study.yaml" as name:
            data = spoilt_text(rng, YAML_STUDY)
        case "results.json" as name:
            data = spoilt_json(rng, results)
        case "matches.npz" as name:
            data = spoilt_bytes(rng, matches)
        case "study.json" as name:
            put(folder / "good.yaml", YAML_STUDY.encode())
            keep_study(read_study(folder / "good.yaml"), folder)
            data = spoilt_json(rng, json.loads((folder / name).read_bytes()))
        case name:
            content = {RECIPE_FILE: _recipe(), OUTCOME_FILE: outcome, "metrics.json": metrics}[name]
            put(folder / "config.yaml", b"SOLVER: {MAX_ITER: 9}")
            put(folder / RECIPE_FILE, json.dumps(_recipe()).encode())
            data = spoilt_json(rng, content)
    return [put(folder / name, data), folder]


def read_study_file(files: list[Path]) -> None:
    """Read a file in the same way as a study or its report."""
    path = files[0]
    match path.name:
        case "study.yaml":
            plan(read_study(path), path.parent)
        case "study.json":
            plan(kept_study(path.parent), path.parent)
        case "results.json":
            contents(path.parent, False)
        case "matches.npz":
            for found in read_matches(path).values():
                found.metrics()
        case "metrics.json":
            read_metrics(path.parent)
        case _:
            study = Study("a", {"A": Detector("a.yaml")}, {"moco": Init("moco")}, "moco")
            look(replace(plan(study, path.parent)[0], folder=path.parent), _recipe())


def draw_data(kind: str) -> Callable[[Random, Path], list[Path]]:
    """Return a function that writes a faulty data set of the given kind."""

    def draw(rng: Random, folder: Path) -> list[Path]:
        write(folder, KINDS[kind].files(rng))
        return [folder]

    return draw


def read_data(kind: str) -> Callable[[list[Path]], None]:
    """Return a function that checks a data set and uses it up to the first step; both results must agree."""

    def read(files: list[Path]) -> None:
        outcome = KINDS[kind].judge(files[0])
        if outcome.errors:  # the data set was not judged any further
            raise ValueError(outcome.refusal)

    return read


READERS = {
    "checkpoint": Reader(draw_checkpoint, read_checkpoint),
    "resumed": Reader(draw_resumed, read_resumed),
    "tuned": Reader(draw_tuned, read_tuned),
    "linear": Reader(draw_linear, read_linear),
    "yaml": Reader(draw_yaml, read_yaml),
    "shards": Reader(draw_shards, read_shards),
    "inaturalist": Reader(draw_inaturalist, read_labels),
    "study": Reader(draw_study, read_study_file),
    **{kind: Reader(draw_data(kind), read_data(kind)) for kind in KINDS},
}
