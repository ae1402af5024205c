"""``python -m tests.rehearsal.card``: runs the three tools, from images to AP50 / AP / AP75, on real images.

The commands are those of the paper's Pascal VOC and COCO experiments, with the data set names and paths of the configs.
Only sizes, schedules and the number of loader processes are overridden. COCO's images are also used as VOC2007 and
VOC2012, with the objects of VOC's twenty classes, all of which are COCO classes.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_CLASSES

REPOSITORY = Path(__file__).resolve().parents[2]
# The classes whose names differ between the two data sets.
VOC_NAMES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
}
PRETRAINING = {
    "DATA.NUM_WORKERS": 1,
    "AUGMENTATION.CROP_SIZE": 64,
    "CONTRAST.QUEUE_SIZE": 1024,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.BASE_LR": 0.015,
}
FINE_TUNING = {
    "DATALOADER.NUM_WORKERS": 1,
    "INPUT.MIN_SIZE_TRAIN": (160,),
    "INPUT.MIN_SIZE_TEST": 160,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.005,
    "SOLVER.WARMUP_ITERS": 20,
    "TEST.PRECISE_BN.NUM_ITER": 10,
}


def lay_out(coco: Path, datasets: Path) -> None:
    """Create ``datasets/coco`` and ``datasets/VOC{2007,2012}`` from a folder in COCO's layout, using symbolic links.

    The ``trainval`` splits of VOC2007 and VOC2012 share the training images, and the ``test`` split of VOC2007 contains
    the validation images. Images without objects of VOC's classes are omitted from these splits.
    """
    datasets.mkdir(parents=True)
    (datasets / "coco").symlink_to(coco.resolve())
    for split, parts in (("train2017", ("VOC2007/trainval", "VOC2012/trainval")), ("val2017", ("VOC2007/test",))):
        content = json.loads((coco / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        objects = defaultdict(list)
        for annotation in content["annotations"]:
            name = names[annotation["category_id"]]
            name = VOC_NAMES.get(name, name)
            if name in VOC_CLASSES and not annotation["iscrowd"]:
                x, y, width, height = annotation["bbox"]
                corners = (x + 1, y + 1, x + width, y + height)  # pixels count from 1; the last one is included
                objects[annotation["image_id"]].append((name, [max(1, round(corner)) for corner in corners]))
        images = [image for image in content["images"] if image["id"] in objects]
        for number, part in enumerate(parts):
            _write_voc(datasets / part, coco / split, images[number :: len(parts)], objects)


def _write_voc(part: Path, source: Path, images: Sequence[dict], objects: dict[int, list]) -> None:
    root = part.parent
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    stems = [Path(image["file_name"]).stem for image in images]
    for stem, image in zip(stems, images, strict=True):
        (root / "JPEGImages" / f"{stem}.jpg").symlink_to((source / image["file_name"]).resolve())
        annotation = ElementTree.Element("annotation")
        size = ElementTree.SubElement(annotation, "size")
        for key in ("width", "height"):
            ElementTree.SubElement(size, key).text = str(image[key])
        for name, corners in objects[image["id"]]:
            described = ElementTree.SubElement(annotation, "object")
            for key, value in (("name", name), ("truncated", "0"), ("difficult", "0")):
                ElementTree.SubElement(described, key).text = value
            box = ElementTree.SubElement(described, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                ElementTree.SubElement(box, key).text = str(value)
        ElementTree.ElementTree(annotation).write(root / "Annotations" / f"{stem}.xml")
    (root / "ImageSets" / "Main" / f"{part.name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def commands(images: Path, epochs: int, iterations: int) -> dict[str, list[str]]:
    """Map the file that each command writes to the command, in order; all paths are relative to the current folder."""
    pretrained, converted = "output/moco_v2_R_50_200ep/model_final.pth", "output/moco_v2_R_50_200ep.pkl"
    pretraining = {"DATA.ROOT": images, **PRETRAINING, "SOLVER.MAX_EPOCHS": epochs, "SEED": 0}
    steps = (iterations * 3 // 4, iterations * 11 // 12)
    fine_tuning = {**FINE_TUNING, "SOLVER.STEPS": steps, "SOLVER.MAX_ITER": iterations, "SEED": 0}
    pretrain = ["tools/pretrain_net.py", "--config-file", "configs/pretrain/moco_v2_R_50_200ep.yaml"]
    return {
        pretrained: [*pretrain, *_words(pretraining)],
        converted: ["tools/convert_pretrain_to_detectron2.py", pretrained, converted],
        **{
            f"output/{config}/results.json": [
                *("tools/train_net.py", "--config-file", f"configs/{config}.yaml"),
                *_words(fine_tuning),
            ]
            for config in ("pascal_voc_R_50_C4_24k_moco", "coco_R_50_FPN_2x_moco")
        },
    }


def _words(overrides: Mapping[str, object]) -> list[str]:
    return [str(word) for pair in overrides.items() for word in pair]


def main() -> None:
    """Prepare the data, run the commands, and print each command with its duration, then the detectors' results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images to pre-train on")
    parser.add_argument("coco", type=Path, help="folder in COCO's layout: train2017, val2017, annotations")
    parser.add_argument("--output", type=Path, default=Path("output/card"), help="folder for logs, weights and data")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of pre-training (default: 2)")
    parser.add_argument("--iterations", type=int, default=60, help="iterations of fine-tuning (default: 60)")
    args = parser.parse_args()
    datasets = args.output / "datasets"
    if not datasets.exists():
        lay_out(args.coco, datasets)
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets.resolve())}
    for result, (tool, *words) in commands(args.images.resolve(), args.epochs, args.iterations).items():
        print("#", shlex.join([tool, *words]), flush=True)
        if (args.output / result).exists():
            print(f"{result} already exists")
            continue
        located = [str(REPOSITORY / word) if word.startswith("configs/") else word for word in words]
        start = time.monotonic()
        program = [sys.executable, str(REPOSITORY / tool), *located]
        with (args.output / f"{Path(tool).stem}.log").open("a", encoding="utf-8") as log:
            status = subprocess.run(
                program, cwd=args.output, env=environment, stdout=log, stderr=log, check=False
            ).returncode
        if status:
            sys.exit(f"error: the command failed with status {status}; see {log.name}")
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    for results in sorted(args.output.glob("output/*/results.json")):
        for dataset, tasks in json.loads(results.read_text(encoding="utf-8")).items():
            for task, metrics in tasks.items():
                shown = " / ".join(f"{metrics[name]:.2f}" for name in ("AP50", "AP", "AP75"))
                print(f"{results.parent.name}, {dataset}, {task}: AP50 / AP / AP75 {shown}")


if __name__ == "__main__":
    main()
