"""What keypoint detectors need to know of a COCO JSON: the names of the keypoints, and which a mirror exchanges."""

from collections.abc import Mapping, Sequence
from typing import Any

LEFT, RIGHT = "left_", "right_"


def keypoint_metadata(name: str, categories: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Return detectron2's metadata of keypoints, from the categories of a COCO JSON.

    Args:
        name: name of the data set, for messages.
        categories: as in the file; those with keypoints have the list ``keypoints`` of their names.

    Returns:
        ``keypoint_names``, and ``keypoint_flip_map``: pairs ``(left_x, right_x)``, which change places in a mirrored
        image. Empty when no category has keypoints.

    Raises:
        ValueError: names are no list of different words, those of two categories differ, or a side lacks the other.
    """
    lists = {category["name"]: category["keypoints"] for category in categories if category.get("keypoints")}
    if not lists:
        return {}
    first, names = next(iter(lists.items()))
    for other, found in lists.items():
        if found != names:
            raise ValueError(
                f"data set {name}: the categories {first} and {other} have different keypoints, but a detector predicts"
                " the same for all; split them into two files"
            )
    if not isinstance(names, list) or not all(isinstance(word, str) for word in names) or len(set(names)) < len(names):
        raise ValueError(
            f"data set {name}: the keypoints of {first} must be a list of different names, found {names!r}"
        )
    mirrored = {word: _mirror(word) for word in names}
    if alone := [word for word, other in mirrored.items() if other not in mirrored]:
        raise ValueError(
            f"data set {name}: the keypoints {', '.join(alone)} of {first} have no counterpart {LEFT}… or {RIGHT}…, so"
            " mirrored images would teach wrong sides"
        )
    return {
        "keypoint_names": names,
        "keypoint_flip_map": [(word, mirrored[word]) for word in names if word.startswith(LEFT)],
    }


def _mirror(word: str) -> str:
    for side, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        if word.startswith(side):
            return other + word.removeprefix(side)
    return word
