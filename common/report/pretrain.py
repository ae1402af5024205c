"""The page of a pre-training run: its curves, the nearest neighbours of its features, and its settings."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

import yaml

from mocodet.common.files import read_json_lines
from mocodet.common.record import RECORD_FILE

from .charts import Axis, Level, Point, Series, line_chart
from .logs import LOG_FILE, curve, thin
from .numbers import fixed
from .page import Figure, Group, Page, Section
from .read import CONFIG_FILE, read_config
from .thumbnails import thumbnail

PRINTED = "log.txt"
CHANCE = "_chance"
NEIGHBOURS = "neighbours"
SIDE = 88  # side length of the thumbnails of neighbours, in pixels
FEW = 20  # curves with fewer points have each point marked

LENGTH = re.compile(r"(\d+) iterations per epoch, (\d+) in total")
WARNING = re.compile(r"^\[[^\]]*\] mocodet\S* WARNING: (.*)$", re.MULTILINE)

# Values that every line of the log contains, but that are not learning curves.
TIMING = ("iteration", "time", "data_time", "eta_seconds")


@dataclass(frozen=True)
class Quantity:
    """The display format of a logged value.

    Attributes:
        title: name on the page.
        unit: unit of the displayed value.
        factor: factor by which the logged value is multiplied, such as 100 to display a fraction in ``%``.
        digits: number of decimal places.
        best: ``max`` or ``min``, or empty if neither is better.
    """

    title: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 3
    best: str = ""


KNOWN = {
    "loss": Quantity("Loss", best="min"),
    "loss_global": Quantity("Loss of images", best="min"),
    "loss_dense": Quantity("Loss of cells", best="min"),
    "accuracy": Quantity("Accuracy", "%", 100, 1, "max"),
    "accuracy_in_batch": Quantity("Accuracy within the batch", "%", 100, 1, "max"),
    "accuracy_dense": Quantity("Accuracy of cells", "%", 100, 1, "max"),
    "same_place": Quantity("Cells matched at the same place", "%", 100, 1),
    "knn_top1": Quantity("kNN top-1", "%", 1, 1, "max"),
    "knn_top5": Quantity("kNN top-5", "%", 1, 1, "max"),
    "top1": Quantity("Top-1", "%", 1, 1, "max"),
    "top5": Quantity("Top-5", "%", 1, 1, "max"),
    "lr": Quantity("Learning rate", digits=4),
    "images_per_second": Quantity("Speed", "images/s", 1, 0),
    "spread": Quantity("Spread of the vectors"),
    "image_std": Quantity("Deviation within an image"),
}
ASIDE = ("spread", "image_std", "images_per_second")  # useful for diagnosing problems


def is_run(folder: Path) -> bool:
    """Return whether ``folder`` is the OUTPUT_DIR of a pre-training run."""
    return (folder / LOG_FILE).is_file() and "METHOD" in read_config(folder)


def pretrain_page(folder: Path, with_images: bool) -> Page:
    """Create the page of the run in ``folder``, with or without images of nearest neighbours.

    Raises:
        FileNotFoundError: the folder contains no log.
        ValueError: the log is damaged or contains no values.
    """
    records, config = read_json_lines(folder / LOG_FILE), read_config(folder)
    chance = {key: value for record in records for key, value in record.items() if key.endswith(CHANCE)}
    keys = _keys(records)
    curves = {key: curve(records, key) for key in keys}
    curves = {key: points for key, points in curves.items() if points}
    if not curves:
        raise ValueError(f"{folder / LOG_FILE} contains no training values yet; expected the log of a pre-training run")
    printed = folder / PRINTED
    text = printed.read_text(encoding="utf-8", errors="replace") if printed.is_file() else ""
    per_epoch, total = length_of_run(text)
    done = round(max(points[-1][0] for points in curves.values()))

    levels = {
        "note": "Each logged value is for a single batch. First and last are means over a tenth of the logged values.",
        "rows": [_level(key, points, chance) for key, points in curves.items() if key not in (*ASIDE, "lr")],
        "warnings": list(dict.fromkeys(WARNING.findall(text))),
        "no_warnings": "" if text else f"Warnings are not shown, because {PRINTED} does not exist.",
    }
    shown = [key for key in curves if key not in ASIDE]
    aside = [key for key in curves if key in ASIDE]
    sections = [
        Section("At a glance", "levels.html", levels),
        Section("Curves", "charts.html", [Group("", _figures(shown, curves, chance, per_epoch))]),
    ]
    if with_images and (files := sorted((folder / NEIGHBOURS).glob("iter_*.json"))):
        sections.append(Section("Nearest neighbours", "neighbours.html", _neighbours(files, per_epoch)))
    if aside:
        sections.append(Section("Health", "charts.html", [Group("", _figures(aside, curves, chance, per_epoch))]))
    sections.append(Section("How it was made", "facts.html", _facts(folder, config)))
    return Page(
        "Pre-training run", folder.resolve().name, _summary(config, done, total, per_epoch), sections, _footer(folder)
    )


def _keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of curves: known ones in the order of `KNOWN`, then the others."""
    found = dict.fromkeys(key for record in records for key in record if not key.endswith(CHANCE))
    return [*(key for key in KNOWN if key in found), *(key for key in found if key not in {*KNOWN, *TIMING})]


def length_of_run(text: str) -> tuple[int | None, int | None]:
    """Return the number of iterations per epoch and in total, as stated in the run's text log, or None for both."""
    found = LENGTH.findall(text)
    return (int(found[-1][0]), int(found[-1][1])) if found else (None, None)


def _quantity(key: str) -> Quantity:
    if key in KNOWN:
        return KNOWN[key]
    title = key.replace("_", " ")
    if key.startswith("accuracy"):
        return Quantity(title.capitalize(), "%", 100, 1, "max")
    return Quantity(title.capitalize(), best="min" if key.startswith("loss") else "")


def _level(key: str, points: Sequence[Point], chance: Mapping[str, float]) -> dict[str, str]:
    quantity = _quantity(key)
    values = [quantity.factor * y for _, y in points]
    tenth = max(1, len(values) // 10)
    shown = {"first": sum(values[:tenth]) / tenth, "last": sum(values[-tenth:]) / tenth}
    if quantity.best:
        shown["best"] = max(values) if quantity.best == "max" else min(values)
    if f"{key}{CHANCE}" in chance:
        shown["chance"] = quantity.factor * chance[f"{key}{CHANCE}"]
    unit = f" {quantity.unit}" if quantity.unit else ""
    cells = {name: f"{fixed(value, quantity.digits)}{unit}" for name, value in shown.items()}
    return {"name": quantity.title, "best": "", "chance": "–", **cells}


def _figures(
    keys: Sequence[str], curves: Mapping[str, list[Point]], chance: Mapping[str, float], per_epoch: int | None
) -> list[Figure]:
    last = max(curves[key][-1][0] for key in keys) / (per_epoch or 1)
    x = Axis("epoch" if per_epoch else "iteration", limits=(0, last))
    figures = []
    for key in keys:
        quantity = _quantity(key)
        points = [(at / (per_epoch or 1), quantity.factor * y) for at, y in thin(curves[key])]
        levels = [Level("chance", quantity.factor * chance[f"{key}{CHANCE}"])] if f"{key}{CHANCE}" in chance else []
        svg = line_chart(quantity.title, [Series("", points, marked=len(points) < FEW)], x, Axis(quantity.unit), levels)
        figures.append(Figure(quantity.title, svg))
    return figures


def _neighbours(files: Sequence[Path], per_epoch: int | None) -> dict[str, Any]:
    first, last = (json.loads(file.read_text(encoding="utf-8")) for file in (files[0], files[-1]))
    alike, found = _alike(last)
    when = f"epoch {last['iterations'] / per_epoch:.3g}" if per_epoch else f"iteration {last['iterations']:,}"
    text = (
        f"Fixed validation images, each with the training images whose features have the highest cosine similarity at"
        f" {when}. Of {found} neighbours, {alike} have the same class as their query"
    )
    text += f", compared with {_alike(first)[0]} at the first evaluation." if len(files) > 1 else "."
    rows, missing = [], 0
    for query in last["queries"]:
        row = []
        for place, image in enumerate([query, *query["neighbours"]]):
            data = thumbnail(Path(image["path"]), SIDE, square=True, box=image.get("box"))
            missing += data is None
            same = place > 0 and image["class"] == query["class"]
            caption = image["class"] if place == 0 else f"{image['similarity']:.2f}"
            if place and not same:
                caption += f" {image['class']}"
            if data is None:
                caption += f" ({Path(image['path']).name})"
            alt = f"neighbour {place}, {image['class']}" if place else f"query, {image['class']}"
            row.append({"data": data, "alt": alt, "caption": caption, "alike": same, "side": SIDE})
        rows.append(row)
    note = (
        "The first image of each row is the query. Underlined neighbours have the class of the query. For the others,"
        " the class is shown."
    )
    if missing:
        note += f" {missing} images no longer exist, so their file names are shown instead."
    return {"text": text, "queries": rows, "note": note}


def _alike(evaluation: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of neighbours with the same class as their query, and the number of all neighbours."""
    pairs = [(query["class"], image["class"]) for query in evaluation["queries"] for image in query["neighbours"]]
    return sum(own == other for own, other in pairs), len(pairs)


def _summary(config: Mapping[str, Any], done: int, total: int | None, per_epoch: int | None) -> str:
    length = f"{done:,} of {total:,} iterations" if total else f"{done:,} iterations"
    if per_epoch:
        length += f" ({done / per_epoch:.3g} epochs)"
    return (
        f"{config['METHOD']}, {config['MODEL']['ARCH']}, crops of {config['AUGMENTATION']['CROP_SIZE']} pixels, batches"
        f" of {config['SOLVER']['IMS_PER_BATCH']}: {length}."
    )


def _facts(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / RECORD_FILE
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    facts = [("folder", str(folder)), ("images", str(config["DATA"]["ROOT"] or config["DATA"]["SHARDS"]))]
    facts.append(("seed", str(config["SEED"])))
    facts += [(name, str(version)) for name, version in record.get("versions", {}).items() if version]
    listings = [("Config", yaml.safe_dump(dict(config), sort_keys=True))]
    if command := record.get("command"):
        listings.insert(0, ("Command", join(command)))
    return {"facts": facts, "listings": listings, "first_open": bool(command)}


def _footer(folder: Path) -> str:
    return f"Created by mocodet report from {LOG_FILE}, {CONFIG_FILE} and {NEIGHBOURS}/ of {folder.resolve().name}."
