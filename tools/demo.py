#!/usr/bin/env python3
"""The whole path on the built-in data set: images, MoCo pre-training, conversion, detectors from MoCo and from nothing.

Every stage is a command, shown before it runs. Stages that are done are not done again: after
an interruption, run the demo again and it goes on; remove the output folder to begin anew.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from mocodet import configs
from mocodet.detection.data.toy import TOY_CLASSES

# OpenMP threads that wait must not spin, and glibc must not hand memory back after every step; see the Makefile.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


def stage(title: str, *command: str | Path, done: Path | None = None) -> tuple[str, float]:
    """Run a command of ``mocodet``, or a file of ``tools/``, unless ``done`` is there; return the title and seconds."""
    if done is not None and done.exists():
        print(f"\n##### {title}: {done} is there already", flush=True)
        return title, 0.0
    words = [str(word) for word in command]
    print(f"\n##### {title}\n# {shlex.join(words)}", flush=True)
    start = time.monotonic()
    program = ["-m"] if words[0] == "mocodet" else []
    status = subprocess.run(
        [sys.executable, *program, *words], env={**ENVIRONMENT, **os.environ}, check=False
    ).returncode
    if status:
        sys.exit(f"demo: {title} failed with exit status {status}; to go on from here, run the demo again")
    return title, time.monotonic() - start


def voc_split(data: Path, split: str) -> dict[str, object]:
    """Describe a split of the toy data as an entry of ``MOCO.DATASETS``."""
    root = str(data / "voc" / "VOC2007")
    return {"NAME": f"toy_{split}", "KIND": "voc", "ROOT": root, "SPLIT": split, "CLASSES": list(TOY_CLASSES)}


def main() -> None:
    """Run the stages one after another, then say how long each took and what they left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: output/demo")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="trials from each start (default: 2)")
    args = parser.parse_args()
    args.output = args.output.resolve()  # part of each trial's recipe
    data, pretrain, study = args.output / "data", args.output / "pretrain", args.output / "study"
    checkpoint, weights = pretrain / "model_final.pth", args.output / "moco.pkl"
    start = time.monotonic()

    times = [
        stage("1. Draw the data", Path(__file__).with_name("make_toy_data.py"), data, done=data / "unlabelled"),
        stage(
            "2. Pre-train with MoCo on the unlabelled images",
            *("mocodet", "pretrain", "--config-file", configs.path("pretrain/toy_moco_v2_R_18.yaml"), "--resume"),
            *("DATA.ROOT", data / "unlabelled", "OUTPUT_DIR", pretrain),
            done=checkpoint,
        ),
        stage(
            "3. Convert the encoder for detectron2 and verify it",
            *("mocodet", "convert", checkpoint, weights),
            done=weights,
        ),
        stage(
            "4. Fine-tune the same detector from MoCo and from random weights",
            *("mocodet", "study"),
            *("--init", f"moco={configs.path('toy_R_18_FPN_moco.yaml')},MODEL.WEIGHTS={weights}"),
            *("--init", f"random={configs.path('toy_R_18_FPN_random.yaml')}"),
            *("--reference", "random", "--seeds", str(args.seeds), "--output", study),
            # On a CPU two small trials of one thread each are quicker than one after the other on two threads.
            *("--jobs", "1" if torch.cuda.is_available() else "2"),
            *("MOCO.DATASETS", str([voc_split(data, split) for split in ("trainval", "test")])),
        ),
    ]

    print("\n##### Done")
    for title, seconds in times:
        print(f"{seconds / 60:6.1f} min  {title}")
    print(f"{(time.monotonic() - start) / 60:6.1f} min  in all\n")
    print((study / "report.txt").read_text(encoding="utf-8"))
    print("Files:")
    for path, what in (
        (data, "the images: voc/, coco/ and unlabelled/"),
        (checkpoint, "the pre-trained encoder; its log is metrics.json beside it"),
        (weights, "the same for detectron2"),
        (study / "moco", "the detectors that started from it, a folder for each seed"),
        (study / "random", "the detectors that started from random weights"),
        (study / "report.md", "the table above; all values are in results.json beside it"),
    ):
        print(f"  {path}  {what}")


if __name__ == "__main__":
    main()
