"""Data sets in the layout of Pascal VOC, read with errors that say what is wrong with which file."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from detectron2.structures import BoxMode

IMAGE_SUFFIX = ".jpg"


def load_voc(name: str, root: str, split: str, classes: Sequence[str]) -> list[dict]:
    """Read one split as detectron2's ``load_voc_instances`` does, but check everything on the way.

    Args:
        name: name of the data set, for messages.
        root: folder that holds ``Annotations/``, ``ImageSets/Main/`` and ``JPEGImages/``.
        split: ``ImageSets/Main/<split>.txt`` lists the images, one name a line without suffix.
        classes: class names in the order of their indices.

    Returns:
        detectron2's standard dicts; objects marked difficult are among the annotations, as in detectron2.

    Raises:
        FileNotFoundError: a folder, the split file, an image or its annotation is missing.
        ValueError: the split is empty, or an annotation is malformed or names a class that is not in ``classes``.
    """
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        if not (Path(root) / folder).is_dir():
            raise FileNotFoundError(
                f"data set {name}: there is no folder {Path(root) / folder}; ROOT must be the folder that holds"
                " Annotations, ImageSets/Main and JPEGImages (in VOC's own archives it is called VOC2007 or VOC2012)"
            )
    return [_load_image(name, Path(root), image, classes) for image in read_split(root, split)]


def read_split(root: str, split: str) -> list[str]:
    """Return the image names of ``ImageSets/Main/<split>.txt``.

    Raises:
        FileNotFoundError: no such split; the message lists those that exist.
        ValueError: it names no image, one twice, or holds more than a name on a line.
    """
    path = Path(root) / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none at all"
        raise FileNotFoundError(f"there is no split {path}; the folder has {known}")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} names no image: the data set is empty")
    if longer := next((line for line in names if len(line.split()) > 1), None):
        raise ValueError(f"{path} must hold one image name a line, found {longer!r}; is this the list of one class?")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} names {len(names) - len(set(names))} images twice")
    return names


def _load_image(name: str, root: Path, image: str, classes: Sequence[str]) -> dict:
    picture = root / "JPEGImages" / f"{image}{IMAGE_SUFFIX}"
    annotation = root / "Annotations" / f"{image}.xml"
    for path in (picture, annotation):
        if not path.is_file():
            raise FileNotFoundError(f"data set {name}: {image} is in the split, but there is no {path}")
    try:
        tree = ElementTree.parse(annotation).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"data set {name}: {annotation} is not XML: {error}") from error
    return {
        "file_name": str(picture),
        "image_id": image,
        "height": _integer(tree, "size/height", annotation),
        "width": _integer(tree, "size/width", annotation),
        "annotations": [_load_object(name, annotation, node, classes) for node in tree.findall("object")],
    }


def _load_object(name: str, annotation: Path, node: ElementTree.Element, classes: Sequence[str]) -> dict:
    class_name = _text(node, "name", annotation)
    if class_name not in classes:
        raise ValueError(
            f"data set {name}: {annotation} holds an object of class {class_name!r}, which CLASSES does not name;"
            f" CLASSES has {', '.join(classes)}"
        )
    # detectron2's evaluator reads these three as well, and would fail only after the training.
    _text(node, "pose", annotation)
    _integer(node, "truncated", annotation)
    _integer(node, "difficult", annotation)
    xmin, ymin, xmax, ymax = (_integer(node, f"bndbox/{side}", annotation) for side in ("xmin", "ymin", "xmax", "ymax"))
    if xmax < xmin or ymax < ymin:
        raise ValueError(
            f"data set {name}: {annotation} holds a {class_name} whose box is inside out: {xmin, ymin, xmax, ymax}"
        )
    return {
        "category_id": classes.index(class_name),
        # VOC counts pixels from 1 and includes the last one.
        "bbox": [xmin - 1.0, ymin - 1.0, float(xmax), float(ymax)],
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def _text(node: ElementTree.Element, path: str, annotation: Path) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(
            f"{annotation} lacks <{path.replace('/', '><')}>; VOC annotations have it and VOC's AP needs it"
        )
    return text


def _integer(node: ElementTree.Element, path: str, annotation: Path) -> int:
    text = _text(node, path, annotation)
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{annotation}: <{path.replace('/', '><')}> must be a whole number, found {text!r}") from None
