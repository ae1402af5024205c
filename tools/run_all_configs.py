#!/usr/bin/env python
"""Train 3 iterations with every detection config, evaluate the result with --eval-only, and print a table.

Only data, sizes, schedules and MODEL.WEIGHTS are overridden; everything else is the config's own. The images are the
built-in toy set's. There are no real weights here: the supervised twins read a ResNet-50 of random values in the
Caffe2 layout of MSRA's R-50.pkl, the MoCo twins one in MoCo's layout after conversion. Exit status 1 if any run fails,
or if --eval-only gives other results than the training run's own evaluation of the same weights.
"""

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torchvision.models import resnet50

from mocodet import configs
from mocodet.common.files import atomic_open
from mocodet.detection.convert import convert_file, detectron2_name
from mocodet.detection.data.toy import TOY_CLASSES, make_toy_data

TRAIN_NET = Path(__file__).with_name("train_net.py")
IMAGE_SIZE = 64

SIZES_AND_SCHEDULE = {
    "INPUT.MIN_SIZE_TRAIN": (IMAGE_SIZE,),
    "INPUT.MIN_SIZE_TEST": IMAGE_SIZE,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "TEST.DETECTIONS_PER_IMAGE": 10,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 3,
    "SOLVER.STEPS": (2,),
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
}


@dataclass
class Outcome:
    """One line of the table."""

    config: str
    weights: str
    loss: float | None = None
    seconds_per_iteration: float | None = None
    box_ap50: float | None = None
    mask_ap50: float | None = None
    detections: int | None = None
    outcome: str = "ok"


def main() -> None:
    """Parse the arguments, run everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/run_all_configs"), help="logs and data go here")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the configs whose name contains TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="runs at a time")
    args = parser.parse_args()

    leaves = [path for path in leaf_configs() if args.only in path.stem]
    if not leaves:
        parser.error(f"no config has {args.only!r} in its name; there are {', '.join(p.stem for p in leaf_configs())}")
    args.output.mkdir(parents=True, exist_ok=True)
    data = args.output / "toy"
    if not data.exists():
        make_toy_data(data, train=16, test=8, unlabelled=0, size=IMAGE_SIZE)
    weights = make_weights(args.output / "weights")

    start = time.perf_counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(lambda leaf: run_config(leaf, data, weights, args.output), leaves))
    rows = [list(vars(outcome).values()) for outcome in outcomes]
    headers = ["config", "weights", "loss", "s/it", "box AP50", "mask AP50", "detections", "outcome"]
    print(tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="github", missingval="-"))
    failed = [outcome.config for outcome in outcomes if outcome.outcome != "ok"]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} ok, {time.perf_counter() - start:.0f} s")
    sys.exit(1 if failed else 0)


def leaf_configs() -> list[Path]:
    """List the configs of VOC and COCO: all but the bases, the toy set's own and those of pre-training."""
    return sorted(path for path in configs.ROOT.glob("*.yaml") if not path.name.startswith(("Base-", "toy_")))


def make_weights(folder: Path) -> dict[str, tuple[str, str]]:
    """Write the stand-ins for pre-trained weights; map each kind of twin to (file, description for the table)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    encoder = resnet50().state_dict()
    original, converted, caffe2 = folder / "moco.pth.tar", folder / "moco.pkl", folder / "msra.pkl"
    moco = {f"module.encoder_q.{name}": value for name, value in encoder.items()}
    with atomic_open(original) as handle:
        torch.save({"epoch": 0, "arch": "resnet50", "state_dict": moco}, handle)
    convert_file(original, converted)
    arrays = {caffe2_name(detectron2_name(n)): v.numpy() for n, v in encoder.items() if is_in_caffe2(n)}
    with atomic_open(caffe2) as handle:
        pickle.dump(arrays, handle)
    return {
        "moco": (str(converted), "stand-in, converted"),
        "supervised": (str(caffe2), "stand-in, Caffe2 layout"),
        "random": ("", "none"),
    }


def is_in_caffe2(name: str) -> bool:
    """Tell whether a torchvision ResNet's parameter is part of the stand-in for MSRA's file."""
    return not name.startswith("fc.") and not name.endswith("num_batches_tracked")


def caffe2_name(name: str) -> str:
    """Translate a detectron2 ResNet's parameter name: ``res2.0.conv1.norm.weight`` -> ``res2_0_branch2a_bn_s``."""
    name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.", "").replace(".norm", "_bn")
    name = name.replace("shortcut", "branch1")
    name = re.sub(r"(?<=\d\.)conv([123])", lambda match: "branch2" + "abc"[int(match[1]) - 1], name)
    for ending, short in (("_bn.weight", "_bn_s"), (".weight", "_w"), (".bias", "_b")):
        name = name.replace(ending, short)
    return name.replace(".running_mean", "_rm").replace(".running_var", "_riv").replace(".", "_")


def run_config(leaf: Path, data: Path, weights: dict[str, tuple[str, str]], output: Path) -> Outcome:
    """Train and evaluate with one config; a failure is told in the outcome."""
    twin = next((kind for kind in ("moco", "random") if leaf.stem.endswith(f"_{kind}")), "supervised")
    file, description = weights[twin]
    outcome = Outcome(leaf.stem, description)
    folder = output / leaf.stem
    options = {**data_options(leaf, data), **SIZES_AND_SCHEDULE, "OUTPUT_DIR": folder}
    checkpoint = folder / "model_final.pth"
    try:
        train_net(leaf, {**options, "MODEL.WEIGHTS": file}, output / f"{leaf.stem}.train.log")
        trained = json.loads((folder / "results.json").read_text())
        lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        metrics = [line for line in lines if "total_loss" in line][-1]
        evaluation = {**options, "MODEL.WEIGHTS": checkpoint, "OUTPUT_DIR": folder / "eval"}
        train_net(leaf, evaluation, output / f"{leaf.stem}.eval.log", "--eval-only")
        evaluated = json.loads((folder / "eval" / "results.json").read_text())
        found = [detections(folder), detections(folder / "eval")]
    except Exception as error:
        outcome.outcome = f"FAILED: {type(error).__name__}: {error}"
    else:
        (tasks,) = evaluated.values()
        outcome.loss, outcome.seconds_per_iteration = metrics["total_loss"], metrics["time"]
        outcome.box_ap50 = tasks["bbox"]["AP50"]
        outcome.mask_ap50 = tasks.get("segm", {}).get("AP50")
        # After three iterations most scores are 0 whatever the weights are; the detections are not.
        if trained != evaluated or found[0] != found[1]:
            outcome.outcome = "FAILED: --eval-only gives other results than the training run"
        elif not any(found[0].values()):
            outcome.outcome = "FAILED: no detection to compare"
        else:
            outcome.detections = sum(map(len, found[0].values()))
    finally:
        checkpoint.unlink(missing_ok=True)  # hundreds of megabytes each
    print(f"{leaf.stem}: {outcome.outcome}", file=sys.stderr, flush=True)
    return outcome


def detections(folder: Path) -> dict[str, list]:
    """Read what a run detected: one list a file, VOC's text lines or COCO's records."""
    found = {}
    for path in sorted((folder / "inference").rglob("*")):
        if path.suffix == ".txt":
            found[path.name] = path.read_text().split("\n") if path.stat().st_size else []
        elif path.name == "coco_instances_results.json":
            found[path.name] = json.loads(path.read_text())
    return found


def data_options(leaf: Path, data: Path) -> dict[str, object]:
    """Give the options that put the toy set in place of the config's data: COCO for a COCO config, else VOC."""
    entries = []
    for split in ("train", "test"):
        name = {"NAME": f"toy_{split}", "CLASSES": list(TOY_CLASSES)}
        if leaf.stem.startswith("coco"):
            annotations = data / "coco" / "annotations" / f"instances_{split}.json"
            entries.append({**name, "KIND": "coco", "JSON": str(annotations), "IMAGES": str(data / "coco" / split)})
        else:
            entries.append({**name, "KIND": "voc", "ROOT": str(data / "voc" / "VOC2007"), "SPLIT": split})
    return {
        "MOCO.DATASETS": entries,
        "DATASETS.TRAIN": ("toy_train",),
        "DATASETS.TEST": ("toy_test",),
        "MODEL.ROI_HEADS.NUM_CLASSES": len(TOY_CLASSES),
    }


def train_net(leaf: Path, options: dict[str, object], log: Path, *flags: str) -> None:
    """Run tools/train_net.py on one thread, its output in ``log``; raise ``RuntimeError`` if it fails."""
    pairs = [text for key, value in options.items() for text in (key, str(value))]
    command = [sys.executable, str(TRAIN_NET), "--config-file", str(leaf), *flags, *pairs]
    with log.open("w") as handle:
        done = subprocess.run(
            command, stdout=handle, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}, see {log}")


if __name__ == "__main__":
    main()
