"""Small data sets of each kind with mistakes, and tests whether check and run agree on them."""

import contextlib
import copy
import io
import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mocodet.common.checks import coco_json, voc
from mocodet.common.checks.findings import Tally
from mocodet.common.checks.semseg import check_label_images
from mocodet.common.checks.yolo import check_yolo
from mocodet.common.formats.coco import read_coco
from mocodet.common.formats.findings import Finding
from mocodet.common.formats.labels import Meaning, count_labels, find_labelled_images
from mocodet.common.formats.voc import read_annotation
from mocodet.common.formats.yolo_folder import folder_of, label_file, read_yolo
from mocodet.detection.data import register_datasets, registration
from mocodet.detection.data.mapper import build_mapper
from mocodet.detection.evaluation.kinds import kind_of
from mocodet.detection.evaluation.kinds.coco import FasterCOCOEvaluator
from mocodet.detection.training.preflight import check_datasets
from tests.common.checks.good import HEIGHT, WIDTH, coco_content
from tests.common.checks.test_any_content import VALUES, places
from tests.detection.tiny import empty_config, new_name

CLASSES = ("cat", "dog")
SIZE = (12, 9)
Files = dict[str, bytes]  # of a data set, by their paths

WORDS = (
    "",
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1.5",
    "12",
    "99",
    "nan",
    "inf",
    "1e400",
    "9" * 400,
    "cat",
    "Dog",
    " dog ",
    "cow",
)
WORDS += (
    "true",
    "no",
    "null",
    "[]",
    "{a: b}",
    "..",
    "/nowhere/a.jpg",
    "a b",
    "\u732b",
    "a\u0301",
    "\x00",
    "%",
    "&",
    "- x",
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "gb18030")


LIKELY = (0, 1, "1", "18", 1.0, [5, 5, 9, 9], [5, 5, 9, 9, 5, 12], {"size": [HEIGHT, WIDTH], "counts": "\\9"}, "dog")


class Outcome(NamedTuple):
    """The result for a data set: the errors of the check; why the run refuses it, "" if it does not."""

    errors: list[str]
    refusal: str

    @property
    def name(self) -> str:
        """Its name in a table."""
        return "refused" if self.refusal else "taken"


class Kind(NamedTuple):
    """A kind of data set: draws one with mistakes; checks, runs and counts one in a folder."""

    files: Callable[[Random], Files]
    judge: Callable[[Path], Outcome]


def picture(size: tuple[int, int] = SIZE, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Return the bytes of an image."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


COCO_PICTURE = picture((WIDTH, HEIGHT))
PICTURES = [picture(), picture(SIZE[::-1]), picture(kind="GIF"), picture(mode="L"), picture(mode="RGBA")]


def write(folder: Path, files: Files) -> None:
    """Write a data set into a folder, replacing its content."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def spoilt_files(rng: Random, files: Files) -> Files:
    """Remove, truncate, exchange or rename one of the files, or write it in another encoding."""
    name = rng.choice(sorted(files))
    data, is_text = files[name], not name.endswith((".png", ".jpg"))
    match rng.choice(["remove", "cut", "exchange", "rename", "encode" if is_text else "picture"]):
        case "remove":
            return {key: value for key, value in files.items() if key != name}
        case "cut":
            return {**files, name: data[: rng.randint(0, len(data))]}
        case "exchange":
            return {**files, name: rng.choice([b"", b"\xff\x00", b"<html>", *files.values()])}
        case "rename":
            stem, _, suffix = name.rpartition(".")
            other = rng.choice([f"{stem}x.{suffix}", f"{stem}.{suffix.upper()}", f"sub/{name}"])
            return {other if key == name else key: value for key, value in files.items()}
        case "picture":
            return {**files, name: rng.choice(PICTURES)}
    text = data.decode("utf-8", "replace")
    text = rng.choice([text, text.replace("\n", "\r\n"), f"\n{text}\n\n", text.replace("cat", "c\u00e4t")])
    return {**files, name: text.encode(rng.choice(ENCODINGS), "replace")}


def spoilt_words(rng: Random, files: Files, names: Iterable[str]) -> Files:
    """Exchange, remove or repeat a word or a line in one of the text files."""
    name = rng.choice(sorted(names))
    parts = re.split(rng.choice([r"([\s,:\[\]]+)", r"(\n)"]), files[name].decode("utf-8", "replace"))
    place = rng.randint(0, len(parts) - 1)
    parts[place] = rng.choice([*WORDS, parts[place] * 2, f"{parts[place]}\n{parts[place]}", *parts])
    return {**files, name: "".join(parts).encode()}


def voc_files(rng: Random) -> Files:
    """Draw a split of two images in VOC's layout."""
    files = {"ImageSets/Main/train.txt": b"a\nb\n"}
    for name in "ab":
        objects = "".join(
            f"<object><name>{one}</name><difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax>"
            "<ymax>8</ymax></bndbox></object>"
            for one in CLASSES
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        files[f"Annotations/{name}.xml"] = (
            f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>".encode()
        )
        files[f"JPEGImages/{name}.png"] = PICTURES[0]
    for _ in range(rng.randint(0, 3)):
        name = f"Annotations/{rng.choice('ab')}.xml"
        files[name] = spoilt_xml(rng, files[name])
    if rng.randrange(2):
        files = spoilt_files(rng, files)
    if rng.randint(0, 4) == 0 and "ImageSets/Main/train.txt" in files:
        files = spoilt_words(rng, files, ["ImageSets/Main/train.txt"])
    return files


def spoilt_xml(rng: Random, data: bytes) -> bytes:
    """Exchange the text or the tag of an element, remove it, or repeat it."""
    root = ElementTree.fromstring(data)
    pairs = [(parent, node) for parent in root.iter() for node in parent]
    if not pairs:
        return data
    parent, node = rng.choice(pairs)
    match rng.choice(["text", "text", "tag", "remove", "repeat", "move"]):
        case "text":
            node.text = rng.choice([word for word in WORDS if "\0" not in word])
        case "tag":
            node.tag = rng.choice(["object", "name", "bndbox", "size", "part"])
        case "remove":
            parent.remove(node)
        case "repeat":
            parent.append(copy.deepcopy(node))
        case "move":
            parent.remove(node)
            root.append(node)
    return ElementTree.tostring(root)


def judge_voc(folder: Path) -> Outcome:
    """Check and run a folder of `voc_files`."""
    entry = {"KIND": "voc", "ROOT": str(folder), "SPLIT": "train", "CLASSES": list(CLASSES)}
    findings = list(voc.check_layout(folder, CLASSES, Tally()))
    # The run ignores an XML file that no list names.
    errors = [
        one for one in findings if one.severity == "error" and "add the image, or remove this file" not in one.what
    ]
    total = 0
    for path in (folder / "Annotations").rglob("*.[xX][mM][lL]"):
        found = read_annotation(path)
        reported = [one for one in found.findings if one.severity == "error"]
        try:
            written = sum(1 for _ in ElementTree.parse(path).iter("object"))
        except (ElementTree.ParseError, ValueError, LookupError):
            written = found.count  # in an encoding that the library does not know
        assert found.count == written or (reported and not found.objects)
        records = {one.record for one in reported if one.record}
        nested = next((int(one.what.split()[1]) for one in reported if "not direct children" in one.what), 0)
        assert len(found.objects) + len(records) + nested == found.count
        total += len(found.objects)
    if not (folder / "ImageSets/Main/train.txt").is_file():
        return Outcome([], "the check does not know which split was meant")
    outcome, records = _run(entry, errors)
    if not outcome.refusal:
        others = sum(int(n) for one in findings for n in re.findall(r"has (\d+) objects of classes that", one.what))
        assert sum(len(record["annotations"]) for record in records) + others <= total
    return outcome


def coco_contents(rng: Random) -> Any:
    """A valid file in which a few values are exchanged, removed or repeated."""
    content: Any = coco_content()
    content["categories"].append({"id": 20, "name": "cat", "supercategory": "dog"})
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice(list(places(content)))
        parent = content
        for key in way:
            parent = parent[key]
        match rng.choice(["exchange", "remove", "repeat"]):
            case "exchange":
                parent[last] = copy.deepcopy(rng.choice([*VALUES, *LIKELY]))
            case "remove":
                del parent[last]
            case "repeat" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
        if not list(places(content)):
            break
    return content


def coco_files(rng: Random) -> Files:
    """Draw a data set in COCO's format, with mistakes in its values or its files."""
    files = {f"images/{image['file_name']}": COCO_PICTURE for image in coco_content()["images"]}
    files["instances.json"] = json.dumps(coco_contents(rng)).encode()
    return spoilt_files(rng, files) if rng.randint(0, 4) == 0 else files


def judge_coco(folder: Path) -> Outcome:
    """Check and run a folder of `coco_files`."""
    path, images = folder / "instances.json", folder / "images"
    errors = [one for one in coco_json.check_json(path, images, Tally()) if one.severity == "error"]
    coco, written = None, None
    if path.is_file():
        coco = read_coco(path, images)
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            content = None
            assert errors
        written = content.get("annotations") if isinstance(content, dict) else None
        if coco.images and coco.categories and isinstance(written, list):
            named = {finding.record for finding in coco.findings if finding.severity == "error"}
            reported = {record for record in named if record.startswith("annotation ")}
            assert len(coco.annotations) + len(reported) == len(written)
    outcome, records = _run({"KIND": "coco", "JSON": str(path), "IMAGES": str(images)}, errors, _score)
    if not outcome.refusal:
        assert coco
        assert written
        assert sum(len(record["annotations"]) for record in records) == len(coco.annotations) == len(written)
    return outcome


def _score(name: str, records: list[dict[str, Any]], folder: Path) -> None:
    """Evaluate the boxes themselves as predictions."""
    ids = list(MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id)
    rows = [
        {"image_id": record["image_id"], "category_id": ids[one["category_id"]], "bbox": one["bbox"], "score": 0.5}
        for record in records
        for one in record["annotations"]
    ]
    (folder / "results.json").write_text(json.dumps(rows))
    results, _ = FasterCOCOEvaluator(name, ["bbox"]).evaluate_saved(folder / "results.json")
    assert not math.isnan(results["bbox"]["AP"])


def yolo_files(rng: Random) -> Files:
    """Draw a data set in YOLO's format: a box and a polygon in each of two images, and one without labels."""
    files = {
        "data.yaml": b"path: .\ntrain: images\nval: train.txt\nnames: [cat, dog]\n",
        "train.txt": b"images/a.png\nimages/b.png\n",
        **{f"labels/{name}.txt": b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.5 0.2 0.25 0.75\n" for name in "ab"},
        **{f"images/{name}.png": PICTURES[0] for name in "abc"},
    }
    texts = sorted(name for name in files if not name.endswith(".png"))
    for _ in range(rng.randint(0, 3)):
        files = spoilt_words(rng, files, texts)
    return spoilt_files(rng, files) if rng.randrange(2) else files


def judge_yolo(folder: Path) -> Outcome:
    """Check and run a folder of `yolo_files`."""
    path = folder / "data.yaml" if (folder / "data.yaml").is_file() else folder
    errors = [one for one in check_yolo(path, Tally(), splits=["train"]) if one.severity == "error"]
    coco = read_yolo(path, "train")
    unreadable = [one.file for one in coco.findings if one.severity == "error" and one.file.suffix.lower() == ".png"]
    total = sum(_lines(label_file(folder_of(coco.path) / image["file_name"])) for image in coco.images)
    total += sum(map(_lines, map(label_file, unreadable)))
    assert len(coco.annotations) + coco.refused == total
    told = [one for one in coco.findings if one.record.startswith("line ")]
    repeated = sum(one.count for one in told if one.severity == "repaired")
    wrong = len({(one.file, one.record) for one in told if one.severity == "error"})
    assert coco.refused == wrong + repeated or unreadable
    outcome, records = _run({"KIND": "yolo", "ROOT": str(path), "SPLIT": "train"}, errors, _score)
    if not outcome.refusal:
        assert sum(len(record["annotations"]) for record in records) == len(coco.annotations) == total - repeated
    return outcome


def _lines(file: Path) -> int:
    """Count the lines of a label file that are not blank; 0 if it is absent or not text."""
    try:
        data = file.read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError):
        return 0
    return sum(bool(line.strip()) for line in text.splitlines())


def semseg_files(rng: Random) -> Files:
    """Draw three images with label images, and their entry in a config."""
    options: dict[str, Any] = {"CLASSES": list(CLASSES)}
    values = rng.choice([(0, 1), (0, 255), (7, 0)])
    if values != (0, 1) or rng.randrange(2):
        options["VALUES"] = list(values)
    if rng.randrange(2):
        options["MAX_IGNORED"] = rng.choice([0.0, 0.2, 1.0])
    files = {"options.json": json.dumps(options).encode(), "train.txt": b"a\nb\nc.png\n"}
    for name in "abc":
        files[f"images/{name}.png"] = PICTURES[0]
        shape = SIZE if rng.randrange(9) else SIZE[::-1]
        values = rng.choice([values, values, values, (0, 1), (0, 255), (255,), (0, 1, 7), (0, 1, 255)])
        rows = np.random.default_rng(rng.randint(0, 9)).choice(np.array(values, np.uint8), shape[::-1])
        files[f"labels/{name}.png"] = _png(rows, rng.choice([*"LLLLPP", "RGB" if rng.randrange(2) else "1"]))
    if not rng.randrange(3):
        files = spoilt_words(rng, files, ["train.txt"])
    if not rng.randrange(3):
        options_file = files.pop("options.json")
        files = {**spoilt_files(rng, files), "options.json": options_file}
    return files


def _png(rows: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(rows)
    if mode == "P":
        image.putpalette([value % 251 for value in range(768)])
    (image if mode in ("L", "P") else image.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def judge_semseg(folder: Path) -> Outcome:
    """Check and run a folder of `semseg_files`."""
    options = json.loads((folder / "options.json").read_bytes())
    images, labels, split = folder / "images", folder / "labels", folder / "train.txt"
    meaning = Meaning(CLASSES, values=tuple(options.get("VALUES", ())), max_ignored=options.get("MAX_IGNORED", 0.5))
    errors = [
        one for one in check_label_images(images, labels, meaning, Tally(), split=split) if one.severity == "error"
    ]
    if split.is_file():
        found, lost = find_labelled_images(images, labels, split)
        assert lost or found
        counts = count_labels(found, meaning)
        unread = {one.file for one in counts.findings if one.severity == "error"}
        pixels: Counter[int] = Counter()
        for pair in found:
            with contextlib.suppress(Exception), Image.open(pair.labels) as image:
                if image.mode in ("L", "P"):
                    pixels.update(list(image.getdata()))
        assert {value: int(count) for value, count in enumerate(counts.pixels) if count} == dict(pixels)
        assert counts.files + len({pair.labels for pair in found} & unread) >= len(found)
    folders = {"IMAGES": str(images), "LABELS": str(labels), "SPLIT": str(split)}
    return _run({"KIND": "semseg", **folders, **options}, errors)[0]


@cache
def _config(semantic: bool) -> CfgNode:
    """Make the config of a model that is not one of detectron2's, so that its number of classes is not compared."""
    size = {"INPUT__MIN_SIZE_TRAIN": (12,), "INPUT__MAX_SIZE_TRAIN": 24}
    if semantic:
        return empty_config(**size, MODEL__META_ARCHITECTURE="SemanticSegmentor", MODEL__SEM_SEG_HEAD__NUM_CLASSES=2)
    return empty_config(**size, MODEL__META_ARCHITECTURE="Any")


def _run(
    entry: dict[str, Any],
    errors: Sequence[Finding],
    score: Callable[[str, list[dict[str, Any]], Path], None] = lambda name, records, folder: None,
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Run everything before the first step of a run, and map every image; compare with the errors of the check.

    Args:
        entry: for ``MOCO.DATASETS``, without a name.
        errors: those of the check.
        score: evaluates something on a data set that is not refused.
    """
    entry, records, refusal = {"NAME": new_name(), **entry}, [], ""
    name = entry["NAME"]
    cfg = _config(entry["KIND"] == "semseg")
    cfg.MOCO.DATASETS, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [entry], (name,), (name,)
    try:
        register_datasets(cfg)
        check_datasets(cfg, training=True)
        kind_of(name).check(cfg, name)
        mapper = build_mapper(cfg, training=True)
        records = DatasetCatalog.get(name)
        for record in records:
            mapper(record)
        score(name, records, Path(entry.get("ROOT", entry.get("JSON", ""))).parent)
    except (ValueError, FileNotFoundError) as error:
        refusal = str(error)
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog, registration._registered):
            catalog.pop(name, None)
    lines = [str(one) for one in errors]
    assert bool(refusal) == bool(lines), refusal or lines
    assert not any("\n" in line for line in (refusal, *lines))
    return Outcome(lines, refusal), records


KINDS = {
    "voc": Kind(voc_files, judge_voc),
    "coco": Kind(coco_files, judge_coco),
    "yolo": Kind(yolo_files, judge_yolo),
    "semseg": Kind(semseg_files, judge_semseg),
}
