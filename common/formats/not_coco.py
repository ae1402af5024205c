"""Recognition of JSON files that are not in COCO format: files in other tools' formats, and lists of predictions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mocodet.common.text import first_few

from .coco_values import short

CONVERT = "export the labels from the tool in COCO format"


class _Other(NamedTuple):
    """A format: how to recognise it, its description, and what to do."""

    known_by: Callable[[Mapping[str, Any]], bool]
    what: str
    remedy: str


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda entry: set(keys) <= entry.keys()


# Formats of files that contain an object, and of files that contain a list, recognised by its first entry.
OBJECTS = (
    _Other(_has("shapes", "imagePath"), "is a LabelMe file for a single image", CONVERT),
    _Other(_has("_via_img_metadata"), "is a VIA (VGG Image Annotator) project", CONVERT),
    _Other(
        lambda entry: any(isinstance(value, dict) and "regions" in value for value in entry.values()),
        "is a VIA (VGG Image Annotator) file",
        CONVERT,
    ),
)
ENTRIES = (
    _Other(
        _has("image_id", "category_id", "score"),
        "is a list of predictions (COCO results format)",
        "specify the annotation file that the predictions are evaluated against",
    ),
    _Other(
        _has("image_id", "category_id"),
        "contains only a list of annotations",
        'write an object: {"images": [...], "annotations": [...], "categories": [...]}',
    ),
    _Other(_has("image", "annotations"), "is a CreateML file", CONVERT),
    _Other(_has("data", "annotations"), "is a Label Studio file", f"{CONVERT} instead of as JSON"),
    _Other(_has("External ID"), "is a Labelbox file", CONVERT),
)
ABSENT = "export it in COCO format (instances)"


def found_instead(content: Any) -> tuple[str, str]:
    """Return what a JSON file without COCO's lists contains instead, and what to do about it."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        for other in ENTRIES:
            if other.known_by(first):
                return other.what, other.remedy
        what = f"is a list of {len(content):,} entries" if content else "is an empty list"
        return f"{what}, not an object", ABSENT
    if not isinstance(content, dict):
        return f"is {short(content)}, not an object", ABSENT
    for other in OBJECTS:
        if other.known_by(content):
            return other.what, other.remedy
    if not content:
        return "is an empty object", ABSENT
    return f"has the keys {first_few([short(key) for key in content])}", ABSENT
