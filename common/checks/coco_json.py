"""Checks of JSON files in COCO format, which LVIS also uses, and of the images that they list."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mocodet.common.formats.coco import Coco, choose_classes, read_coco
from mocodet.common.formats.coco_values import Id, Record, short
from mocodet.common.formats.findings import Finding
from mocodet.common.formats.near_file import NearFiles

from .findings import Fault, Tally
from .images import PUBLISHED, ImageJob, check_images, files_below


def check_json(path: Path, images: Path, tally: Tally, *, workers: int = 0) -> Iterator[Finding]:
    """Yield the findings in a JSON file of instances (boxes, masks, keypoints), and the errors in its images.

    Args:
        path: the JSON file.
        images: folder to which its file names are relative.
        tally: counts what was checked.
        workers: number of processes that decode images; 0 decodes them in the calling process.
    """
    if not path.is_file():
        yield Fault(path, "is missing; set --json to the annotation file")
        return
    coco = choose_classes(read_coco(path, images))
    yield from instances_findings(coco, images, tally, workers)
    readable = coco.images and coco.is_annotated and not coco.refused
    if readable and all(annotation["iscrowd"] for annotation in coco.annotations):
        yield Fault(path, "has no objects, or only crowds, for training and evaluation; annotate some objects")


def instances_findings(coco: Coco, folder: Path, tally: Tally, workers: int) -> Iterator[Finding]:
    """Yield the findings in a file of instances, and the errors in its images in ``folder``."""
    yield from coco.findings
    first = folder not in tally.looked_at
    files = {image["id"]: folder / image["file_name"] for image in coco.images}
    yield from image_file_faults(coco, files, tally, workers, NearFiles(folder, set(files.values())))
    unknown = len({folder / name for name in files_below(folder)} - set(files.values()))
    if unknown and first:
        tally.notes.append(f"{folder}: {unknown:,} files are not listed in {coco.path.name}")
    count_annotations(coco, tally)


def count_annotations(coco: Coco, tally: Tally) -> None:
    """Add the annotations in a file to the tally."""
    tally.counts["annotations"] += len(coco.annotations) + coco.refused
    tally.counts["annotations with keypoints"] += sum("keypoints" in annotation for annotation in coco.annotations)


def image_file_faults(
    coco: Coco, files: Mapping[Id, Path], tally: Tally, workers: int, near: NearFiles | None = None
) -> Iterator[Finding]:
    """Yield the errors in the image files.

    A missing folder is reported once instead of once for each of its files. Files that have already been checked are
    skipped.

    Args:
        coco: the images that refer to the files.
        files: maps image ids to paths.
        tally: counts what was checked.
        workers: see `check_json`.
        near: finds the files that the file names of missing images may mean.
    """
    by_id = {image["id"]: image for image in coco.images}
    first: dict[Path, Record] = {}  # the first image in each folder
    for identity, path in files.items():
        first.setdefault(path.parent, by_id[identity])
    # List each folder once instead of looking up each of a hundred thousand files.
    there = {folder: files_below(folder) for folder in sorted(first)}
    for folder in there:
        if folder not in tally.looked_at and not folder.is_dir():
            yield Fault(folder, f"is missing, but {coco.path} lists images in it{_meant(first[folder], near)}")
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco.images if "width" in image}
    jobs = []
    for identity, path in files.items():
        if path in tally.looked_at or not path.parent.is_dir():
            continue
        if path.name in there[path.parent]:
            jobs.append(ImageJob(path, sizes.get(identity), coco.path.name))
        else:
            what = f"is missing, but image {short(identity)} of {coco.path} refers to it"
            yield Fault(path, what + (_meant(by_id[identity], near) or f"; add the file{PUBLISHED}"))
    tally.looked_at.update(files.values(), there)
    yield from check_images(jobs, tally, workers)


def _meant(image: Record, near: NearFiles | None) -> str:
    """Return the end of a message that names the file that a missing image may mean, or an empty string."""
    path = near.find(image["file_name"]) if near else None
    return f"; there is {path}: correct file_name in the JSON file, or --images" if path else ""
