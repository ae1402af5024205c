"""Generates mini data sets in the layouts that VOC, COCO, LVIS and Cityscapes have on disk.

The images are the toy scenes of ``toy.py``, whose classes replace eight classes of each data set so that the detectors
have something to learn. If ``DETECTRON2_DATASETS`` is set to the folder, the configs of these data sets can be run
without changes to their data settings.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import (
    CITYSCAPES_CATEGORIES,
    COCO_CATEGORIES,
    COCO_PERSON_KEYPOINT_NAMES,
)
from detectron2.data.datasets.lvis_v0_5_categories import LVIS_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_CLASSES
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

from mocodet.detection.data.toy import (
    JPEG_QUALITY,
    TOY_CLASSES,
    Array,
    Scene,
    draw_scene,
    mask_box,
    mask_to_polygons,
    voc_xml,
)

VOC_VOID = 255  # the border of an object, not scored
# COCO's supercategories in the order of their ids, with the number of categories in each.
COCO_SUPERCATEGORIES = {
    "person": 1,
    "vehicle": 8,
    "outdoor": 5,
    "animal": 10,
    "accessory": 5,
    "sports": 10,
    "kitchen": 7,
    "food": 10,
    "furniture": 6,
    "electronic": 6,
    "appliance": 5,
    "indoor": 7,
}
# Positions of COCO's 17 keypoints in the box of a person seen from the front, as fractions of its width and height. The
# person's left side is on the right of the image.
KEYPOINT_PLACES = (
    (0.50, 0.10),
    (0.56, 0.07),
    (0.44, 0.07),
    (0.62, 0.10),
    (0.38, 0.10),
    (0.72, 0.30),
    (0.28, 0.30),
    (0.82, 0.45),
    (0.18, 0.45),
    (0.85, 0.60),
    (0.15, 0.60),
    (0.62, 0.60),
    (0.38, 0.60),
    (0.60, 0.78),
    (0.40, 0.78),
    (0.60, 0.95),
    (0.40, 0.95),
)
# COCO's skeleton, with keypoints counted from one.
SKELETON = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)
PERSON = 0  # the toy class that replaces COCO's person
LVIS_FREQUENCIES = "ffffccrr"  # frequencies of the replaced categories: frequent, common, rare
DENSEPOSE_SIDE = 256  # pixels of the box in which DensePose's points and part masks are defined
DENSEPOSE_PARTS = 14
DENSEPOSE_CHARTS = 24
DENSEPOSE_POINTS = 20
CITIES = {"train": ("aachen", "bochum"), "val": ("frankfurt", "lindau")}
# Maps Cityscapes' names of the labels that occur to (id, trainId, colour).
CITYSCAPES_LABELS = {
    "ego vehicle": (1, 255, (0, 0, 0)),
    **{label["name"]: (label["id"], label["trainId"], label["color"]) for label in CITYSCAPES_CATEGORIES},
}
CITYSCAPES_THINGS = tuple(label["name"] for label in CITYSCAPES_CATEGORIES if label["isthing"])


def make_layouts(root: str | Path, *, size: int, train: int, val: int, seed: int = 0) -> None:
    """Generate one mini data set each for VOC 2007, VOC 2012, COCO, LVIS v0.5 and Cityscapes in ``root``.

    ======================  ==========================================================================================
    ``VOC2007``             boxes; ``train`` images in trainval, ``val`` images in test
    ``VOC2012``             boxes and class maps; ``train`` images in train (Main) and trainaug, half of them in train
                            (Segmentation), ``val`` images in val
    ``coco``                masks of the 80 categories, keypoints and DensePose points of persons; 2017 and 2014 names
    ``lvis``                masks of the 1,230 categories, over COCO's images
    ``cityscapes``          polygons and their PNG files, including ``labelTrainIds``; twice as wide as high
    ======================  ==========================================================================================

    The same arguments produce the same files. ``root`` is either created completely or not at all.

    Args:
        root: the folder to create, which may exist if it is empty.
        size: the height of the images in pixels, at least 48.
        train: the number of training images in each data set, at least 2.
        val: the number of validation or test images in each data set, at least 2.
        seed: the non-negative seed of all random choices.

    Raises:
        FileExistsError: ``root`` is a file or a folder that is not empty.
        ValueError: a number is too small.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not an empty folder; remove it or choose another")
    if size < 48 or train < 2 or val < 2 or seed < 0:
        raise ValueError(
            "size must be at least 48 pixels, train and val at least 2 images and seed at least 0; got"
            f" size={size}, train={train}, val={val}, seed={seed}"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".tmp", dir=root.parent))
    try:
        building.chmod(0o755)  # mkdtemp restricts the folder to its owner
        for index, year in enumerate((2007, 2012)):
            splits = {"train": _scenes(seed, 4 * index, train, size), "val": _scenes(seed, 4 * index + 1, val, size)}
            _write_voc(building / f"VOC{year}", year, {split: list(scenes) for split, scenes in splits.items()})
        for split, stream, count in (("train", 2, train), ("val", 3, val)):
            scenes = list(_scenes(seed, stream, count, size))
            _write_coco(building, split, scenes)
            _write_cityscapes(building / "cityscapes", split, list(_scenes(seed, stream + 4, 2 * count, size)))
        building.replace(root)  # replaces an empty folder, but fails for any other folder
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _scenes(seed: int, stream: int, count: int, size: int) -> Iterator[Scene]:
    """Generate ``count`` scenes, each of which contains the next class in turn."""
    for index in range(count):
        yield draw_scene(np.random.default_rng([seed, stream, index]), size, required_class=index % len(TOY_CLASSES))


def _folder(*parts: str | Path) -> Path:
    path = Path(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    _folder(path.parent)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_json(path: Path, content: object) -> None:
    _folder(path.parent)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_jpeg(path: Path, image: Array) -> None:
    _folder(path.parent)
    Image.fromarray(image).save(path, quality=JPEG_QUALITY)


# Pascal VOC


def _write_voc(root: Path, year: int, splits: Mapping[str, list[Scene]]) -> None:
    """Write ``VOC2007`` with trainval and test, or ``VOC2012`` with train, val and class maps."""
    names: dict[str, list[str]] = {}
    first = 1
    for split, scenes in splits.items():
        numbers = range(first, first + len(scenes))
        names[split] = [f"{number:06d}" if year == 2007 else f"2008_{number:06d}" for number in numbers]
        first += len(scenes)
        for name, scene in zip(names[split], scenes, strict=True):
            _write_jpeg(root / "JPEGImages" / f"{name}.jpg", scene.image)
            annotation = voc_xml(f"{name}.jpg", scene, VOC_CLASSES, f"VOC{year}", segmented=year == 2012)
            _write_lines(root / "Annotations" / f"{name}.xml", annotation.splitlines())
    if year == 2007:
        main = {"train": names["train"], "trainval": names["train"], "test": names["val"]}
    else:
        main = {**names, "trainval": names["train"] + names["val"]}
        _write_voc_class_maps(root, names, splits)
    for split, listed in main.items():
        _write_lines(root / "ImageSets" / "Main" / f"{split}.txt", listed)


def _write_voc_class_maps(root: Path, names: Mapping[str, list[str]], splits: Mapping[str, list[Scene]]) -> None:
    """Write VOC's maps for half of the train and all val images, and maps as in the augmented set for all images."""
    train = names["train"][: len(names["train"]) // 2]
    for split, scenes in splits.items():
        for name, scene in zip(names[split], scenes, strict=True):
            image = Image.fromarray(_class_map(scene))
            augmented = _folder(root / "SegmentationClassAug") / f"{name}.png"
            image.save(augmented)  # plain indices, because the augmented maps have no palette
            if name in train or split == "val":
                image.putpalette(_voc_palette())
                image.save(_folder(root / "SegmentationClass") / f"{name}.png")
    lists = {"train": train, "val": names["val"], "trainval": train + names["val"], "trainaug": names["train"]}
    for split, listed in lists.items():
        _write_lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", listed)


def _class_map(scene: Scene) -> Array:
    """Return H x W class indices: 0 for the background, class + 1 for objects, ``VOC_VOID`` for their borders."""
    classes = np.zeros(scene.image.shape[:2], dtype=np.uint8)
    border = np.zeros_like(classes, dtype=bool)
    for label, mask in zip(scene.classes, scene.masks, strict=True):
        classes[mask] = label + 1
        padded = np.pad(mask, 1, mode="edge")
        inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        border |= mask & ~inside
    classes[border] = VOC_VOID
    return classes


def _voc_palette() -> list[int]:
    """Return VOC's 256 RGB colours: the bits of an index are assigned to the channels in turn, from the highest bit."""
    colours = []
    for index in range(256):
        for channel in range(3):
            colours.append(sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8)))
    return colours


# COCO, its keypoints and DensePose points, and LVIS


def _write_coco(root: Path, split: str, scenes: Sequence[Scene]) -> None:
    """Write the images of one split with COCO's, DensePose's and LVIS's annotations."""
    images = []
    first = 1 if split == "train" else 500_001  # ids are unique across the splits
    for image_id, scene in enumerate(scenes, start=first):
        name = f"{image_id:012d}.jpg"
        _write_jpeg(root / "coco" / f"{split}2017" / name, scene.image)
        # COCO 2014 contains the same images under other names.
        _write_jpeg(root / "coco" / f"{split}2014" / f"COCO_{split}2014_{name}", scene.image)
        height, width = scene.image.shape[:2]
        url = f"http://images.cocodataset.org/{split}2017/{name}"
        images.append({"id": image_id, "file_name": name, "height": height, "width": width, "coco_url": url})
    objects = [
        {"id": 100 * image["id"] + index, "image_id": image["id"], "toy_class": label, "mask": mask}
        for image, scene in zip(images, scenes, strict=True)
        for index, (label, mask) in enumerate(zip(scene.classes, scene.masks, strict=True))
    ]
    annotations = root / "coco" / "annotations"
    categories = _coco_categories()
    instances = [{**_coco_object(item), "category_id": categories[item["toy_class"]]["id"]} for item in objects]
    _write_coco_json(annotations / f"instances_{split}2017.json", images, instances, categories)

    person = {**categories[PERSON], "keypoints": COCO_PERSON_KEYPOINT_NAMES, "skeleton": SKELETON}
    persons = [
        (item, annotation) for item, annotation in zip(objects, instances, strict=True) if item["toy_class"] == PERSON
    ]
    with_keypoints = [annotation | _keypoints(item["mask"]) for item, annotation in persons]
    _write_coco_json(annotations / f"person_keypoints_{split}2017.json", images, with_keypoints, [person])

    images_2014 = [image | {"file_name": f"COCO_{split}2014_{image['file_name']}"} for image in images]
    with_points = [  # every second person, because not all persons in DensePose have points
        annotation | (_densepose(item["mask"], annotation["id"]) if number % 2 == 0 else {})
        for number, (item, annotation) in enumerate(persons)
    ]
    # DensePose splits COCO's val2014 into a small test set and additional training images.
    parts = {"train2014": images_2014}
    if split == "val":
        parts = {"minival2014": images_2014[::2], "valminusminival2014": images_2014[1::2]}
    for part, chosen in parts.items():
        ids = {image["id"] for image in chosen}
        there = [annotation for annotation in with_points if annotation["image_id"] in ids]
        _write_coco_json(annotations / f"densepose_{part}.json", chosen, there, [person])

    _write_lvis(root / "lvis" / f"lvis_v0.5_{split}.json", images, objects)


def _write_coco_json(
    path: Path, images: Sequence[dict], annotations: Sequence[dict], categories: Sequence[dict]
) -> None:
    _write_json(
        path,
        {
            "info": {"description": "mocodet toy scenes"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        },
    )


def _coco_categories() -> list[dict[str, Any]]:
    supercategories = [name for name, count in COCO_SUPERCATEGORIES.items() for _ in range(count)]
    things = sorted((category for category in COCO_CATEGORIES if category["isthing"]), key=lambda thing: thing["id"])
    return [
        {"supercategory": supercategory, "id": thing["id"], "name": thing["name"]}
        for supercategory, thing in zip(supercategories, things, strict=True)
    ]


def _coco_object(item: Mapping[str, Any]) -> dict[str, Any]:
    """Describe an object as in COCO, without its category."""
    x0, y0, x1, y1 = mask_box(item["mask"])
    return {
        "id": item["id"],
        "image_id": item["image_id"],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(item["mask"].sum()),
        "segmentation": mask_to_polygons(item["mask"]),
        "iscrowd": 0,
    }


def _keypoints(mask: Array) -> dict[str, Any]:
    """Place COCO's keypoints in the box of a mask, visible (2) on the mask and hidden (1) outside it."""
    x0, y0, x1, y1 = mask_box(mask)
    keypoints: list[int] = []
    for across, down in KEYPOINT_PLACES:
        x, y = x0 + int(across * (x1 - x0)), y0 + int(down * (y1 - y0))
        keypoints += [x, y, 2 if mask[y, x] else 1]
    return {"keypoints": keypoints, "num_keypoints": len(KEYPOINT_PLACES)}


def _densepose(mask: Array, seed: int) -> dict[str, Any]:
    """Annotate a mask as in DensePose-COCO: the mask of one body part, and points with chart index and coordinates."""
    x0, y0, x1, y1 = mask_box(mask)
    crop = Image.fromarray(mask[y0:y1, x0:x1]).resize((DENSEPOSE_SIDE, DENSEPOSE_SIDE), Image.Resampling.NEAREST)
    part = np.asarray(crop, dtype=np.uint8)
    rle = mask_utils.encode(np.asfortranarray(part))
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, int(part.sum()), DENSEPOSE_POINTS)
    rows, columns = (places[chosen] for places in np.nonzero(part))
    return {
        "dp_masks": [{**rle, "counts": rle["counts"].decode()}, *([] for _ in range(DENSEPOSE_PARTS - 1))],
        "dp_x": columns.astype(float).tolist(),
        "dp_y": rows.astype(float).tolist(),
        "dp_I": rng.integers(1, DENSEPOSE_CHARTS + 1, DENSEPOSE_POINTS).astype(float).tolist(),
        "dp_U": rng.random(DENSEPOSE_POINTS).tolist(),
        "dp_V": rng.random(DENSEPOSE_POINTS).tolist(),
    }


def _write_lvis(path: Path, images: Sequence[dict], objects: Sequence[Mapping[str, Any]]) -> None:
    """Write LVIS v0.5's JSON: federated annotations of 1,230 categories (Gupta et al., CVPR 2019, section 3)."""
    by_frequency = {letter: iter([c["id"] for c in LVIS_CATEGORIES if c["frequency"] == letter]) for letter in "rcf"}
    ids = [next(by_frequency[letter]) for letter in LVIS_FREQUENCIES]
    annotations = []
    for item in objects:
        annotation = {**_coco_object(item), "category_id": ids[item["toy_class"]]}
        del annotation["iscrowd"]  # LVIS has no crowds
        annotations.append(annotation)
    present = {image["id"]: {a["category_id"] for a in annotations if a["image_id"] == image["id"]} for image in images}
    lvis_images = [
        image
        | {
            "neg_category_ids": [category for category in ids if category not in present[image["id"]]][:3],
            "not_exhaustive_category_ids": sorted(present[image["id"]])[:1] if image["id"] % 4 == 0 else [],
        }
        for image in images
    ]
    categories = [
        {
            **category,
            "image_count": sum(category["id"] in found for found in present.values()),
            "instance_count": sum(category["id"] == annotation["category_id"] for annotation in annotations),
        }
        for category in sorted(LVIS_CATEGORIES, key=lambda category: category["id"])
    ]
    _write_coco_json(path, lvis_images, annotations, categories)


# Cityscapes


def _write_cityscapes(root: Path, split: str, scenes: Sequence[Scene]) -> None:
    """Write one split, with two scenes per image, because Cityscapes' images are twice as wide as high."""
    for index, (left, right) in enumerate(zip(scenes[::2], scenes[1::2], strict=True)):
        city = CITIES[split][index % len(CITIES[split])]
        stem = f"{city}_{index:06d}_000019"
        image = np.concatenate([left.image, right.image], axis=1)
        Image.fromarray(image).save(_folder(root / "leftImg8bit" / split / city) / f"{stem}_leftImg8bit.png")
        width = left.image.shape[1]
        objects = _cityscapes_background(image.shape[0], image.shape[1])
        for scene, shift in ((left, 0), (right, width)):
            for label, mask in zip(scene.classes, scene.masks, strict=True):
                polygon = [[x + shift, y] for x, y in _outline(mask)]
                objects.append({"label": CITYSCAPES_THINGS[label], "polygon": polygon})
        _write_cityscapes_labels(_folder(root / "gtFine" / split / city), stem, image.shape[0], image.shape[1], objects)


def _cityscapes_background(height: int, width: int) -> list[dict[str, Any]]:
    """Return sky above, road below and, at the bottom, the bonnet of the camera car, which is not scored."""
    bands = {"sky": (0, height // 2 - 1), "road": (height // 2, height - 1), "ego vehicle": (height - 3, height - 1)}
    return [
        {"label": label, "polygon": [[0, top], [width - 1, top], [width - 1, bottom], [0, bottom]]}
        for label, (top, bottom) in bands.items()
    ]


def _outline(mask: Array) -> list[list[int]]:
    """Outline a mask with one polygon of integer pixels: down along the first pixel of each row, up along the last."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask.argmax(axis=1)
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    return [[int(first[row]), int(row)] for row in rows] + [[int(last[row]), int(row)] for row in rows[::-1]]


def _write_cityscapes_labels(folder: Path, stem: str, height: int, width: int, objects: Sequence[dict]) -> None:
    """Write polygons, and the maps that Cityscapes' scripts draw from them, each polygon over the previous ones."""
    content = {"imgHeight": height, "imgWidth": width, "objects": objects}
    _write_json(folder / f"{stem}_gtFine_polygons.json", content)
    modes = {"instanceIds": "I", "labelIds": "L", "labelTrainIds": "L", "color": "RGBA"}
    unlabelled = {"instanceIds": 0, "labelIds": 0, "labelTrainIds": 255, "color": (0, 0, 0)}
    maps = {kind: Image.new(mode, (width, height), unlabelled[kind]) for kind, mode in modes.items()}
    drawers = {kind: ImageDraw.Draw(image) for kind, image in maps.items()}
    counts = dict.fromkeys(CITYSCAPES_THINGS, 0)
    for item in objects:
        label, polygon = item["label"], [tuple(point) for point in item["polygon"]]
        label_id, train_id, colour = CITYSCAPES_LABELS[label]
        instance_id = label_id
        if label in counts:
            instance_id = 1000 * label_id + counts[label]
            counts[label] += 1
        fills = {"instanceIds": instance_id, "labelIds": label_id, "labelTrainIds": train_id, "color": colour}
        for kind, fill in fills.items():
            drawers[kind].polygon(polygon, fill=fill)
    # 16 bits, as in Cityscapes; Pillow no longer writes 32-bit PNG files.
    maps["instanceIds"] = Image.fromarray(np.asarray(maps["instanceIds"]).astype(np.uint16))
    for kind, image in maps.items():
        image.save(folder / f"{stem}_gtFine_{kind}.png")
