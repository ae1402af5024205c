"""Recognition of JSON files that are not in COCO's format: another tool's format, or a list of predictions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mocodet.common.text import first_few

from .coco_values import short

CONVERT = "export the labels from the tool in COCO's format"


class _Other(NamedTuple):
    """A format: a test for it, its description, and what to do."""

    known_by: Callable[[Mapping[str, Any]], bool]
    what: str
    remedy: str


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda entry: set(keys) <= entry.keys()


# For files that hold an object, and for files that hold a list, by its first entry.
OBJECTS = (
    _Other(_has("shapes", "imagePath"), "is LabelMe's, of one image", CONVERT),
    _Other(_has("_via_img_metadata"), "is a project of VIA (VGG Image Annotator)", CONVERT),
    _Other(
        lambda entry: any(isinstance(value, dict) and "regions" in value for value in entry.values()),
        "is VIA's (VGG Image Annotator)",
        CONVERT,
    ),
)
ENTRIES = (
    _Other(
        _has("image_id", "category_id", "score"),
        "is a list of predictions (COCO's results)",
        "name the file of annotations that they are evaluated with",
    ),
    _Other(
        _has("image_id", "category_id"),
        "is a list of annotations alone",
        'write {"images": [...], "annotations": [...], "categories": [...]}',
    ),
    _Other(_has("image", "annotations"), "is CreateML's", CONVERT),
    _Other(_has("data", "annotations"), "is Label Studio's", f"{CONVERT}, not as JSON"),
    _Other(_has("External ID"), "is Labelbox's", CONVERT),
)
ABSENT = "export it in COCO's format, of instances"


def found_instead(content: Any) -> tuple[str, str]:
    """Say what the content of a JSON file without COCO's lists is, and what to do."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        for other in ENTRIES:
            if other.known_by(first):
                return other.what, other.remedy
        what = f"is a list of {len(content):,} entries" if content else "is an empty list"
        return f"{what}, and not an object", ABSENT
    if not isinstance(content, dict):
        return f"is {short(content)}, and not an object", ABSENT
    for other in OBJECTS:
        if other.known_by(content):
            return other.what, other.remedy
    if not content:
        return "is an empty object", ABSENT
    return f"has the keys {first_few([short(key) for key in content])}", ABSENT
