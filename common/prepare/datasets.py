"""Preparation of each data set: its archives, and the files created from them."""

import re
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mocodet.common.checks import cityscapes, coco, lvis
from mocodet.common.checks.voc import TRAINAUG_MASKS, list_file
from mocodet.common.files import atomic_open

from . import trainaug
from .archives import Archive, inside
from .matlab import load_mat
from .members import tar_of_tars
from .steps import Plan, making

SBD = ("cls", "train.txt", "val.txt")  # the required part of SBD

# Names, URLs and checksums are from torchvision's datasets/voc.py and datasets/sbd.py; sizes in bytes are from the
# servers' Content-Length.
VOC = (
    *(
        Archive(
            name=name,
            part=year,
            place=inside((f"VOCdevkit/VOC{year}", f"VOC{year}")),
            targets=(f"VOC{year}/JPEGImages", f"VOC{year}/Annotations", f"VOC{year}/ImageSets/Main/{split}.txt"),
            size=size,
            unpacked=size,
            url=f"https://thor.robots.ox.ac.uk/pascal/VOC/voc{year}/{name}",
            md5=md5,
        )
        for name, year, split, size, md5 in (
            ("VOCtrainval_06-Nov-2007.tar", "2007", "trainval", 460_032_000, "c52e279531787c972589f7e41ab4ae64"),
            ("VOCtest_06-Nov-2007.tar", "2007", "test", 451_020_800, "b6e924de25625d8de591ea690078ad9f"),
            ("VOCtrainval_11-May-2012.tar", "2012", "trainval", 1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd"),
        )
    ),
    Archive(
        name="benchmark.tgz",
        part="trainaug",
        place=inside(*((f"benchmark_RELEASE/dataset/{name}", f"sbd/{name}") for name in SBD)),
        targets=tuple(f"sbd/{name}" for name in SBD),
        size=1_419_539_633,
        unpacked=100_000_000,  # only the masks; the images are VOC's
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
        products=(f"VOC2012/{TRAINAUG_MASKS}", "VOC2012/ImageSets/Segmentation/trainaug.txt"),
        needs="VOC2012/ImageSets/Segmentation/train.txt",
        otherwise="also prepare VOC 2012, with --only 2012 trainaug",
        brought_by="2012",
    ),
)

# URLs from cocodataset.org/#download, which publishes no checksums. Other downloaders, such as PaddlePaddle's and
# Avalanche's, agree on these checksums and sizes in bytes.
COCO = tuple(
    Archive(
        name=name,
        part=part,
        place=inside((part, f"coco/{part}")),
        targets=tuple(coco.ANNOTATIONS) if part == "annotations" else (f"coco/{part}",),
        size=size,
        unpacked=unpacked,
        url=f"http://images.cocodataset.org/{'annotations' if part == 'annotations' else 'zips'}/{name}",
        md5=md5,
    )
    for part, name, size, unpacked, md5 in (
        ("annotations", "annotations_trainval2017.zip", 252_907_541, 830_000_000, "f4bbac642086de4f52a3fdda2de5fa2c"),
        ("val2017", "val2017.zip", 815_585_330, 830_000_000, "442b8da7639aecaf257c1dceb8ba8c80"),
        ("train2017", "train2017.zip", 19_336_861_798, 19_700_000_000, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    )
)

# URLs of v0.5 on lvisdataset.org, which publishes no checksums. Sizes are approximate.
LVIS = tuple(
    Archive(
        name=f"{lvis.FILES[split]}.zip",
        part=split,
        place=inside((lvis.FILES[split], f"lvis/{lvis.FILES[split]}")),
        targets=(f"lvis/{lvis.FILES[split]}",),
        size=size,
        unpacked=unpacked,
        url=f"https://dl.fbaipublicfiles.com/LVIS/{lvis.FILES[split]}.zip",
        exact=False,
        needs=f"coco/{split}2017",
        otherwise="LVIS annotates COCO's images, so prepare coco first",
    )
    for split, size, unpacked in (("train", 350_000_000, 1_000_000_000), ("val", 30_000_000, 80_000_000))
)

# The site provides the files and their checksums only after login. Sizes are in bytes.
CITYSCAPES = tuple(
    Archive(
        name=f"{part}_trainvaltest.zip",
        part=part,
        place=inside((part, f"cityscapes/{part}")),
        targets=tuple(f"cityscapes/{part}/{split}" for split in cityscapes.IMAGE_COUNTS),
        size=size,
        unpacked=unpacked,
        read_with=package,
    )
    for part, size, unpacked, package in (
        ("gtFine", 252_567_705, 1_100_000_000, "cityscapesscripts"),
        ("leftImg8bit", 11_592_327_197, 11_700_000_000, None),
    )
)
CITYSCAPES_BY_HAND = (
    "log in at https://www.cityscapes-dataset.com/downloads/ (free for research after registration), or run"
    " `csDownload gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip` from cityscapesscripts"
)

IMAGENET_BY_HAND = (
    "log in at https://image-net.org/challenges/LSVRC/2012/2012-downloads.php and download the training and validation"
    " images and the development kit (Task 1 & 2)"
)
DEVKIT = "imagenet/devkit"
META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def plan_of(dataset: str, root: Path) -> Plan:
    """Return the plan for preparing ``dataset``, named as on the command line, below ``root``."""
    match dataset:
        case "voc":
            masks, names = root / "VOC2012" / TRAINAUG_MASKS, list_file(root / "VOC2012", "Segmentation/trainaug")
            what = f"write the masks of VOC and SBD to {masks}, and the list trainaug.txt"
            # The list is written last and removed first.
            return Plan(VOC, further=[making("trainaug", what, lambda: [names, masks], partial(trainaug.make, root))])
        case "coco":
            return Plan(COCO)
        case "lvis":
            return Plan(LVIS)
        case "cityscapes":
            folder = root / "cityscapes" / "gtFine"
            what = f"write *{cityscapes.TRAIN_ID_ENDING}, which semantic segmentation needs, to {folder}"
            made = making("gtFine", what, partial(_train_id_files, folder), partial(make_train_ids, folder))
            return Plan(CITYSCAPES, CITYSCAPES_BY_HAND, [made])
        case "imagenet":
            return Plan(_image_net(root), IMAGENET_BY_HAND)
    raise ValueError(f"unknown data set {dataset!r}")


def make_train_ids(folder: Path) -> None:
    """Write ``*_labelTrainIds.png`` next to every ``*_labelIds.png`` below ``folder`` that has none.

    Raises:
        ImportError: cityscapesscripts is not installed.
        ValueError: an image contains a label that is not a Cityscapes label.
    """
    known, train_ids = cityscapes.label_table()
    todo = {path: labels for path, labels in _train_id_files(folder).items() if not path.exists()}
    for path, source in tqdm(todo.items(), desc="labelTrainIds", disable=None):
        labels = cityscapes.read_labels(source)
        if unknown := sorted(set(np.unique(labels).tolist()) - known):
            raise ValueError(
                f"{source} has the label {unknown[0]}, which is not a Cityscapes label; use --only gtFine --again"
            )
        with atomic_open(path) as handle:
            Image.fromarray(train_ids[labels]).save(handle, format="PNG")


def _train_id_files(folder: Path) -> dict[Path, Path]:
    """Return the files of training ids that must exist below ``folder``, each mapped to its label file."""
    old, new = cityscapes.LABEL_ENDING, cityscapes.TRAIN_ID_ENDING
    return {path.with_name(path.name.replace(old, new)): path for path in sorted(folder.glob(f"*/*/*{old}"))}


def _image_net(root: Path) -> tuple[Archive, ...]:
    """Return ImageNet's archives, which are unpacked to ``imagenet/train/<wnid>`` and ``imagenet/val/<wnid>``."""

    @lru_cache
    def wnids() -> list[str]:
        return val_wnids(root / DEVKIT)

    def place_val(name: str) -> str | None:
        match = VAL_NAME.fullmatch(name)
        if match is None:
            return None
        number = int(match[1])
        if not 1 <= number <= len(wnids()):
            raise ValueError(f"{name} is not among the {len(wnids())} validation images in the development kit")
        return f"imagenet/val/{wnids()[number - 1]}/{name}"

    # Names and checksums are from torchvision's datasets/imagenet.py; sizes are in bytes.
    return (
        Archive(
            name="ILSVRC2012_devkit_t12.tar.gz",
            part="val",
            place=inside(("ILSVRC2012_devkit_t12/data", DEVKIT)),
            targets=(f"{DEVKIT}/{META}", f"{DEVKIT}/{TRUTH}"),
            size=2_500_000,
            exact=False,
            unpacked=4_000_000,
            md5="fa75699e90414af021442c21a62c3abf",
            products=("imagenet/val",),
        ),
        Archive(
            name="ILSVRC2012_img_val.tar",
            part="val",
            place=place_val,
            targets=("imagenet/val",),
            size=6_744_924_160,
            unpacked=6_800_000_000,
            md5="29b22e2961454d5413ddabcf34fc5622",
        ),
        Archive(
            name="ILSVRC2012_img_train.tar",
            part="train",
            place=inside(("", "imagenet/train")),
            targets=("imagenet/train",),
            size=147_897_477_120,
            unpacked=148_000_000_000,
            md5="1d675b47d978889d74fa0da5fadfb00e",
            members=tar_of_tars,
        ),
    )


def val_wnids(devkit: Path) -> list[str]:
    """Return the class, a WordNet id, of each ImageNet validation image in the order of the image numbers.

    Args:
        devkit: folder that contains ``meta.mat`` and ``ILSVRC2012_validation_ground_truth.txt``, in which line n is the
            class number of image n in ``meta.mat``.

    Raises:
        ValueError: one of these files is damaged.
    """
    meta, truth = devkit / META, devkit / TRUTH
    try:
        synsets = load_mat(meta)["synsets"]
        # The table also contains inner nodes of the WordNet tree; only the leaves are classes.
        names = {int(row.ILSVRC2012_ID): str(row.WNID) for row in synsets if not int(row.num_children)}
        return [names[int(line)] for line in truth.read_text(encoding="ascii").split()]
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{meta} and {truth.name} do not match ({error!r}); use --only val --again") from error
