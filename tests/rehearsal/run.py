"""Trains, resumes and evaluates with each config in a separate process."""

import json
import multiprocessing
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from detectron2.config import CfgNode

from mocodet import configs
from mocodet.detection.data.toy import TOY_CLASSES, make_toy_data
from mocodet.detection.densepose import uses_densepose
from tests.commands import train as train_net
from tests.rehearsal.stand_ins import StandIn
from tests.rehearsal.surface import make_surface

ITERATIONS = 3
RESUMED_ITERATIONS = 5
IMAGE_SIZE = 64  # pixels

SIZES_AND_SCHEDULE: dict[str, object] = {
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TRAIN": (IMAGE_SIZE,),
    "INPUT.MIN_SIZE_TEST": IMAGE_SIZE,
    "INPUT.CROP.SIZE": (IMAGE_SIZE + 1, IMAGE_SIZE + 1),  # for configs that crop
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,  # ensures that there are detections to compare
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": (2,),
    "MOCO.PASSES": 0,  # for configs that count in passes
    "MOCO.MIN_ITERS": 0,
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 0,
}
# detectron2's log line.
STARTED = re.compile(r"Starting training from iteration (\d+)")
NO_DENSEPOSE = "detectron2's DensePose project is not installed"
MARKER = ".rehearsal"  # marks the folders that may be removed


@dataclass
class Outcome:
    """The outcome of one config, which is a row of the table.

    Attributes:
        config: the name of the config.
        weights: the initial weights.
        loss: the total loss of the last iteration.
        seconds_per_iteration: the logged seconds per iteration.
        metrics: maps each task to its AP or mIoU in per cent.
        predictions: the number of saved predictions; None if the evaluator does not save any.
        outcome: ``"ok"``, the error, or the reason why the config was not run.
    """

    config: str
    weights: str
    loss: float | None = None
    seconds_per_iteration: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    predictions: int | None = None
    outcome: str = "ok"


def leaf_configs() -> list[Path]:
    """Return the detection configs, excluding bases."""
    return sorted(path for path in configs.ROOT.glob("*.yaml") if not path.name.startswith("Base-"))


def rehearse(
    leaves: Sequence[Path],
    datasets: Path,
    stand_ins: Mapping[str, StandIn],
    output: Path,
    changes: Callable[[Path], Mapping[str, object]] = lambda leaf: {},
    *,
    jobs: int = 1,
    announce: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Train with every config for 3 iterations, resume to 5, evaluate with ``--eval-only``; failures are outcomes.

    Only sizes, schedules, the score threshold, the device and ``MODEL.WEIGHTS`` are overridden. A config also fails if
    the resumed run does not continue from the iteration at which the first one stopped, or if the results or
    predictions of ``--eval-only`` differ from those of the evaluation at the end of training.

    Args:
        leaves: the config files, as returned by `leaf_configs`.
        datasets: the value of ``DETECTRON2_DATASETS``, a folder that contains the data sets named in the configs.
        stand_ins: the weights for each kind of variant.
        output: the folder for the toy set, the cache with DensePose's surface, and in ``runs`` the logs and results of
            each config. The files of an earlier rehearsal are replaced.
        changes: returns further overrides for a config.
        jobs: the number of configs to run at a time, each on one thread.
        announce: called with each outcome as soon as it is available.
    """
    toy = output / "toy"
    if any(toy_options(leaf, toy) for leaf in leaves) and not toy.exists():
        make_toy_data(toy, train=16, test=8, unlabelled=0, size=IMAGE_SIZE)
    cache = (output / "cache").resolve()
    if any(map(uses_densepose, leaves)):
        make_surface(cache)
    runs = output / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    outcomes: dict[Path, Outcome] = {}
    # detectron2 reads the first variable when it is imported, so the processes must start with this variable set.
    context = multiprocessing.get_context("spawn")
    with (
        _environment(DETECTRON2_DATASETS=str(datasets.resolve()), FVCORE_CACHE=str(cache), OMP_NUM_THREADS="1"),
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
    ):
        running = {}
        for leaf in leaves:
            if uses_densepose(leaf) and find_spec("densepose") is None:
                outcomes[leaf] = Outcome(
                    leaf.stem, stand_ins[variant(leaf)].description, outcome=f"not run: {NO_DENSEPOSE}"
                )
                announce(outcomes[leaf])
            else:
                more = {**toy_options(leaf, toy), **changes(leaf)}
                running[pool.submit(run_config, leaf, stand_ins[variant(leaf)], more, runs)] = leaf
        for future in as_completed(running):
            leaf = running[future]
            try:
                outcome = future.result()
            except Exception as error:  # the process died
                outcome = Outcome(leaf.stem, stand_ins[variant(leaf)].description, outcome=f"FAILED: {error!r}")
            outcomes[leaf] = outcome
            announce(outcome)
    return [outcomes[leaf] for leaf in leaves]


def variant(leaf: Path) -> str:
    """Return the name of the stand-in that a config starts from, derived from the config's name."""
    if leaf.stem.endswith("_moco"):
        return "toy_moco" if is_toy(leaf) else "moco"
    return next((kind for kind in ("random", "coco") if leaf.stem.endswith(f"_{kind}")), "supervised")


def is_toy(leaf: Path) -> bool:
    """Return whether a config uses the toy set, which it expects at the location that `make demo` uses."""
    return leaf.stem.startswith("toy_")


def toy_options(leaf: Path, toy: Path) -> dict[str, object]:
    """Return overrides that make a config of the toy set, or of the user's own data, use the toy set in ``toy``."""
    entries = CfgNode.load_yaml_with_base(str(leaf)).get("MOCO", {}).get("DATASETS", [])
    if is_toy(leaf):
        return {"MOCO.DATASETS": [{**entry, "ROOT": str((toy / "voc" / "VOC2007").resolve())} for entry in entries]}
    if not entries:
        return {}
    coco = (toy / "coco").resolve()
    own = [
        {**entry, "JSON": str(coco / "annotations" / f"instances_{split}.json"), "IMAGES": str(coco / split)}
        for entry, split in zip(entries, ("train", "test"), strict=True)
    ]
    return {"MOCO.DATASETS": own, "MODEL.ROI_HEADS.NUM_CLASSES": len(TOY_CLASSES)}


def run_config(leaf: Path, stand_in: StandIn, more: Mapping[str, object], runs: Path) -> Outcome:
    """Train, resume and evaluate with one config in this process, with the output in ``runs/<config>.log``.

    Args:
        leaf: the config file.
        stand_in: the initial weights.
        more: further overrides.
        runs: the parent folder of the run.
    """
    torch.set_num_threads(1)
    # As in a command from a shell. Otherwise, the helpers of detectron2's Cityscapes loader would also be spawned.
    multiprocessing.set_start_method(None, force=True)
    outcome = Outcome(leaf.stem, stand_in.description)
    folder = runs / leaf.stem
    options = {**SIZES_AND_SCHEDULE, **more, "OUTPUT_DIR": folder, "MODEL.WEIGHTS": stand_in.file}
    checkpoint = folder / "model_final.pth"
    try:
        _start_anew(folder)
        with _output_to(runs / f"{leaf.stem}.log"):
            _run(leaf, {**options, "SOLVER.MAX_ITER": ITERATIONS})
            _run(leaf, {**options, "SOLVER.MAX_ITER": RESUMED_ITERATIONS}, "--resume")
            evaluation = {**options, "MODEL.WEIGHTS": checkpoint, "OUTPUT_DIR": folder / "eval"}
            _run(leaf, evaluation, "--eval-only")
        read_results(outcome, folder)
    except BaseException as error:  # the command reports errors with SystemExit
        outcome.outcome = f"FAILED: {type(error).__name__}: {error}".strip().splitlines()[0]
    finally:
        if (folder / MARKER).exists():
            for saved in folder.glob("*.pth"):
                saved.unlink()  # hundreds of megabytes each
    return outcome


def _start_anew(folder: Path) -> None:
    """Remove the files of an earlier rehearsal, but no others, because its metrics could be mistaken for this one's."""
    if folder.exists() and not (folder / MARKER).exists():
        raise FileExistsError(f"{folder} exists, but was not created by a rehearsal; choose another --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / MARKER).touch()


def _run(leaf: Path, options: Mapping[str, object], *flags: str) -> None:
    pairs = [text for key, value in options.items() for text in (key, str(value))]
    train_net(["--config-file", str(leaf), *flags, *pairs])


def read_results(outcome: Outcome, folder: Path) -> None:
    """Read the results of the runs, and raise ``RuntimeError`` if they are not as expected."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    steps = [line for line in lines if "total_loss" in line]
    started = [int(text) for text in STARTED.findall((folder / "log.txt").read_text())]
    ended = [line["iteration"] + 1 for line in steps]
    if (started, ended) != ([0, ITERATIONS], [ITERATIONS, RESUMED_ITERATIONS]):
        raise RuntimeError(
            f"the resumed run did not continue where the first one stopped: runs from {started} to {ended}"
        )
    outcome.loss = steps[-1]["total_loss"]
    outcome.seconds_per_iteration = steps[0]["time"]  # detectron2 does not time the first three iterations of a run
    trained, evaluated = (json.loads((run / "results.json").read_text()) for run in (folder, folder / "eval"))
    saved = saved_predictions(folder)
    # After a few iterations, most metrics are 0 for any weights, but the predictions differ.
    if trained != evaluated or saved != saved_predictions(folder / "eval"):
        raise RuntimeError("the results of --eval-only differ from those of the training run")
    (tasks,) = evaluated.values()
    outcome.metrics = {task: values.get("AP", values.get("mIoU")) for task, values in tasks.items()}
    if saved:
        outcome.predictions = sum(map(len, saved.values()))
        if outcome.predictions == 0:
            raise RuntimeError("the run saved no predictions to compare")


def saved_predictions(folder: Path) -> dict[str, list]:
    """Read the predictions of a run as one list per file, of VOC's text lines or the records of the COCO formats."""
    found = {}
    for path in sorted((folder / "inference").rglob("*")):
        if path.suffix == ".txt":
            found[path.name] = path.read_text().splitlines()
        elif path.suffix == ".json":
            found[path.name] = json.loads(path.read_text())
    return found


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect all output of this process, including that of C libraries, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with path.open("w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
        try:
            yield
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, saved in zip((1, 2), before, strict=True):
                os.dup2(saved, number)
                os.close(saved)
