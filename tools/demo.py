#!/usr/bin/env python3
"""The whole path on the built-in data set: images, MoCo pre-training, conversion, detectors from MoCo and from nothing.

Every stage is a command, shown before it runs. Stages that are done are not done again: after an interruption, run the
demo again and it goes on; remove the output folder to begin anew. `make demo` sets what makes it quick on a CPU.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from mocodet.detection.data.toy import TOY_CLASSES


def stage(title: str, done: Path | None, *command: object) -> tuple[str, float]:
    """Run a command of ``mocodet``, or a file of ``tools/``, unless ``done`` is there; return the title and seconds."""
    if done is not None and done.exists():
        print(f"\n##### {title}: {done} is there already", flush=True)
        return title, 0.0
    words = [str(word) for word in command]
    print(f"\n##### {title}\n# {shlex.join(words)}", flush=True)
    start = time.monotonic()
    program = [sys.executable, *(["-m"] if words[0] == "mocodet" else []), *words]
    if status := subprocess.run(program, check=False).returncode:
        sys.exit(f"demo: {title} failed with exit status {status}; to go on from here, run the demo again")
    return title, time.monotonic() - start


def main() -> None:
    """Run the stages one after another, then say how long each took and what they left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="default: output/demo")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="trials from each start (default: 2)")
    args = parser.parse_args()
    output = args.output.resolve()  # part of each trial's recipe
    data, pretrain, study = output / "data", output / "pretrain", output / "study"
    images, checkpoint, weights = data / "unlabelled", pretrain / "model_final.pth", output / "moco.pkl"
    root, classes = str(data / "voc" / "VOC2007"), list(TOY_CLASSES)
    datasets = [
        {"NAME": f"toy_{split}", "KIND": "voc", "ROOT": root, "SPLIT": split, "CLASSES": classes}
        for split in ("trainval", "test")
    ]
    start = time.monotonic()
    times = [
        stage("1. Draw the data", images, Path(__file__).with_name("make_toy_data.py"), data),
        stage(
            "2. Pre-train with MoCo on the unlabelled images",
            checkpoint,
            *("mocodet", "pretrain", "--config-file", "pretrain/toy_moco_v2_R_18.yaml", "--resume"),
            *("DATA.ROOT", images, "OUTPUT_DIR", pretrain),
            *(() if hasattr(os, "memfd_create") else ("DATA.CACHE", "none")),  # which needs Linux
        ),
        stage(
            "3. Convert the encoder for detectron2 and verify it", weights, "mocodet", "convert", checkpoint, weights
        ),
        stage(
            "4. Fine-tune the same detector from MoCo and from random weights",
            None,  # a study knows itself what is done
            *("mocodet", "study", "--init", f"moco=toy_R_18_FPN_moco.yaml,MODEL.WEIGHTS={weights}"),
            *("--init", "random=toy_R_18_FPN_random.yaml", "--reference", "random"),
            *("--seeds", args.seeds, "--output", study),
            # On a CPU two small trials of one thread each are quicker than one after the other on two threads.
            *("--jobs", 1 if torch.cuda.is_available() else 2),
            *("MOCO.DATASETS", datasets),
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
