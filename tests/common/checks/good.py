"""Small data sets without faults, for tests to damage."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
NAMES = ("000001", "000002", "000003")


def jpeg(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def png(path: Path, values: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette([value % 251 for value in range(768)])
    image.save(path)


def voc_xml(name: str, box: tuple = (1, 1, WIDTH, HEIGHT), class_name: str = "cat") -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<annotation><filename>{name}.jpg</filename>"
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        f"<object><name>{class_name}</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>"
        f"<bndbox>{sides}</bndbox></object></annotation>"
    )


def write_list(path: Path, names: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def make_voc(folder: Path) -> Path:
    """Write three images, of which the first and the third have masks, in VOC's layout."""
    for name in NAMES:
        jpeg(folder / "JPEGImages" / f"{name}.jpg")
        path = folder / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(voc_xml(name))
    write_list(folder / "ImageSets" / "Main" / "trainval.txt", NAMES[:2])
    write_list(folder / "ImageSets" / "Main" / "test.txt", NAMES[2:])
    (folder / "ImageSets" / "Main" / "cat_test.txt").write_text("000003  1\n")  # VOC's classification task
    write_list(folder / "ImageSets" / "Segmentation" / "train.txt", NAMES[::2])
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:5], mask[5:7] = 20, 255
    for name in NAMES[::2]:
        png(folder / "SegmentationClass" / f"{name}.png", mask, palette=True)
    return folder


def coco_content() -> dict:
    """Give three images with an ordinary annotation, a crowd and a person with keypoints, in COCO's format."""
    keypoints = [10, 10, 2, *[0, 0, 0] * 15, 20, 20, 1]
    polygon = [1.0, 1.0, 20.0, 1.0, 20.0, 15.0]
    ordinary = {"id": 11, "image_id": 1, "category_id": 18, "bbox": [1, 1, 19, 14], "area": 133.0, "iscrowd": 0}
    return {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(NAMES, start=1)
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": [f"k{number}" for number in range(17)]},
            {"id": 18, "name": "dog"},
        ],
        "annotations": [
            {**ordinary, "segmentation": [polygon]},
            {
                **ordinary,
                **{"id": 12, "image_id": 2, "iscrowd": 1},
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]},
            },
            {**ordinary, "id": 13, "category_id": 1, "keypoints": keypoints, "num_keypoints": 2},
        ],
    }


def make_coco(folder: Path) -> Path:
    for name in NAMES:
        jpeg(folder / "images" / f"{name}.jpg")
    write_json(folder / "instances.json", coco_content())
    return folder


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
