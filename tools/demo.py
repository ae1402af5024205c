#!/usr/bin/env python3
"""Run the complete pipeline on the built-in data set: generate images, pre-train with MoCo, convert the encoder, train
detectors from MoCo and from random weights, and compare them.

Each stage is a command, which is printed before it runs. After an interruption, run the demo again; it skips completed
stages. To start from the beginning, remove the output folder. The settings of `make demo` run fast on a CPU.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from mocodet.common.cores import available_cores
from mocodet.common.report.findings import compare
from mocodet.common.study.aggregate import aggregate
from mocodet.detection.data.toy import TOY_CLASSES

BN_GROUPS = 4  # with 16 images each, over all processes


def stage(title: str, done: Path | None, *command: object) -> tuple[str, float]:
    """Run a ``mocodet`` command or a script in ``tools/`` unless ``done`` exists; return the title and duration."""
    if done is not None and done.exists():
        print(f"\n##### {title}: {done} already exists", flush=True)
        return title, 0.0
    words = [str(word) for word in command]
    print(f"\n##### {title}\n# {shlex.join(words)}", flush=True)
    start = time.monotonic()
    program = [sys.executable, *(["-m"] if words[0] == "mocodet" else []), *words]
    if status := subprocess.run(program, check=False).returncode:
        sys.exit(f"demo: {title} failed with exit status {status}; to resume here, run the demo again")
    return title, time.monotonic() - start


def main() -> None:
    """Run the stages in order, then print their durations, output files and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("output/demo"), metavar="DIR", help="output folder (default: output/demo)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed for the data and pre-training (default: 0)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="number of trials per initialisation (default: 3)"
    )
    args = parser.parse_args()
    output = args.output.resolve()  # absolute, because it is part of each trial's recipe
    data, pretrain, study = output / "data", output / "pretrain", output / "study"
    images, checkpoint, weights = data / "unlabelled", pretrain / "model_final.pth", output / "moco.pkl"
    root, classes = str(data / "voc" / "VOC2007"), list(TOY_CLASSES)
    datasets = [
        {"NAME": f"toy_{split}", "KIND": "voc", "ROOT": root, "SPLIT": split, "CLASSES": classes}
        for split in ("trainval", "test")
    ]
    # On a CPU, two processes with one thread each are faster than one process with two threads.
    processes = 1 if torch.cuda.is_available() else min(2, available_cores())
    start = time.monotonic()
    times = [
        stage("1. Generate the data", images, Path(__file__).with_name("make_toy_data.py"), data, "--seed", args.seed),
        stage(
            "2. Pre-train with MoCo on the unlabelled images",
            checkpoint,
            *("mocodet", "pretrain", "--config-file", "pretrain/demo_moco_v2_R_18.yaml", "--resume"),
            *("--num-gpus", processes, "MODEL.BN_GROUPS", BN_GROUPS // processes),
            *(("MODEL.DEVICE", "cpu") if processes > 1 else ()),
            *("DATA.ROOT", images, "OUTPUT_DIR", pretrain, "SEED", args.seed),
            *(() if hasattr(os, "memfd_create") else ("DATA.CACHE", "none")),  # the cache requires Linux
        ),
        stage(
            "3. Convert the encoder for detectron2 and verify it", weights, "mocodet", "convert", checkpoint, weights
        ),
        stage(
            "4. Fine-tune the same detector from MoCo and from random weights",
            None,  # a study skips completed trials itself
            *("mocodet", "study", "--init", f"moco=toy_R_18_FPN_moco.yaml,MODEL.WEIGHTS={weights}"),
            *("--init", "random=toy_R_18_FPN_random.yaml", "--reference", "random"),
            *("--seeds", args.seeds, "--output", study, "--jobs", processes),
            *("MOCO.DATASETS", datasets),
        ),
        stage("5. Write the report", None, "mocodet", "report", study),
    ]

    print("\n##### Done")
    for title, seconds in times:
        print(f"{seconds / 60:6.1f} min  {title}")
    print(f"{(time.monotonic() - start) / 60:6.1f} min  in total\n")
    print((study / "report.txt").read_text(encoding="utf-8"))
    print("Files:")
    for path, what in (
        (data, "the images: voc/, coco/ and unlabelled/"),
        (checkpoint, "the pre-trained encoder; its log is metrics.json in the same folder"),
        (weights, "the encoder in detectron2's format"),
        (study, "the detectors, one folder per initialisation and seed; results.json contains all values"),
        (study / "report.html", "tables, curves and detections on a single web page"),
    ):
        print(f"  {path}  {what}")
    print(f"\nFor the results of ten seeds of images and pre-training, see docs/demo.md.\n{finding(study)}")


def finding(study: Path) -> str:
    """Return the result of the demo's study as a sentence."""
    content = json.loads((study / "results.json").read_text(encoding="utf-8"))
    (moco,) = (row for row in aggregate(content) if row.init != row.reference)
    pairs = f"{moco.n_trials} pairs of trials" if moco.n_trials > 1 else "one pair of trials"
    return f"Result of {pairs}: {compare(moco, moco.reference)}"


if __name__ == "__main__":
    main()
