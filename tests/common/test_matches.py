from dataclasses import replace

import numpy as np
import pytest
from detectron2.evaluation.pascal_voc_evaluation import voc_ap

from mocodet.common.matches import Matches, read_matches, write_matches

METRICS = ("voc2007", "voc2012", "coco")


def draw_matches(rng: np.random.Generator, metric: str, images: int = 12, classes: int = 3) -> Matches:
    """Draw detections of different scores and objects, so that each object is found at most once."""
    thresholds = np.arange(0.5, 1.0, 0.05)
    begin, score, image, right, ignored, objects_begin, object_image = [0], [], [], [], [], [0], []
    for _ in range(classes):
        objects, count = rng.integers(0, images, rng.integers(5, 12)), 40
        places = np.concatenate([objects, rng.integers(0, images, count - len(objects))])
        best = np.concatenate([rng.uniform(0.4, 1.0, len(objects)), np.zeros(count - len(objects))])
        order = rng.permutation(count)
        image.append(places[order])
        score.append(np.sort(rng.random(count))[::-1])
        right.append(best[order] > thresholds[:, None])
        ignored.append((rng.random(count) < 0.15) & ~right[-1])
        object_image.append(objects)
        begin.append(begin[-1] + count)
        objects_begin.append(objects_begin[-1] + len(objects))
    return Matches(
        metric=metric,
        thresholds=thresholds,
        classes=np.array([f"class {number}" for number in range(classes)]),
        images=np.array([f"{number:03}" for number in range(images)]),
        begin=np.array(begin),
        score=np.concatenate(score),
        image=np.concatenate(image),
        right=np.concatenate(right, axis=1),
        ignored=np.concatenate(ignored, axis=1),
        objects_begin=np.array(objects_begin),
        object_image=np.concatenate(object_image),
    )


def slow_ap(found: Matches, index: int, at: int, repeats: np.ndarray) -> float:
    """AP of a class with really repeated images: the detections of each copy are judged one by one."""
    hits, total = [], 0
    for place in range(found.begin[index], found.begin[index + 1]):
        for _ in range(repeats[found.image[place]]):
            if not found.ignored[at, place]:
                hits.append(bool(found.right[at, place]))
    for place in range(found.objects_begin[index], found.objects_begin[index + 1]):
        total += repeats[found.object_image[place]]
    if not total:
        return np.nan
    right = np.cumsum(hits) if hits else np.zeros(0)
    recall, precision = right / total, right / np.arange(1, len(hits) + 1)
    if found.metric != "coco":
        return float(voc_ap(recall, precision, found.metric == "voc2007"))
    # As pycocotools has it: the highest precision at a recall of at least 0, 0.01, ..., 1.
    highest = [max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(highest))


@pytest.mark.parametrize("metric", METRICS)
def test_average_precisions__of_weighted_images_are_those_of_repeated_ones(metric):
    rng = np.random.default_rng(METRICS.index(metric))
    found = draw_matches(rng, metric)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=6).T.astype(np.int32)
    weights[:, 0] = 1  # as it is
    weights[found.object_image[: found.objects_begin[1]], 1] = 0  # without an object of the first class
    aps = found.average_precisions(weights)
    assert np.isnan(aps[0, :, 1]).all()
    for index, at, resample in np.ndindex(aps.shape):
        expected = slow_ap(found, index, at, weights[:, resample])
        np.testing.assert_allclose(aps[index, at, resample], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.average_precisions()[..., 0], aps[..., 0], rtol=0, atol=1e-12)
    means = 100 * np.nanmean(aps, axis=0)
    for name, expected in {"AP": means.mean(axis=0), "AP50": means[0], "AP75": means[5]}.items():
        np.testing.assert_allclose(found.metrics(weights)[name], expected)


def test_metrics__a_class_without_objects_counts_as_0_by_the_2007_metric_alone():
    rng = np.random.default_rng(0)
    for metric in METRICS:
        found = draw_matches(rng, metric)
        first = found.metrics()["AP"].item()
        more = replace(
            found,
            classes=np.append(found.classes, "absent"),
            begin=np.append(found.begin, found.begin[-1]),
            objects_begin=np.append(found.objects_begin, found.objects_begin[-1]),
        )
        assert more.metrics()["AP"].item() == pytest.approx(first * (3 / 4 if metric == "voc2007" else 1))


def test_curve__is_of_the_right_detections():
    found = draw_matches(np.random.default_rng(1), "coco")
    for index in range(3):
        recall, precision, score = found.curve(index, 0.75)
        own, right, wrong = slice(found.begin[index], found.begin[index + 1]), 0, 0
        expected, objects = [], found.objects_begin[index + 1] - found.objects_begin[index]
        for hit, left_out, value in zip(found.right[5, own], found.ignored[5, own], found.score[own], strict=True):
            right, wrong = right + hit, wrong + (not hit and not left_out)
            if hit:
                expected.append((right / objects, right / (right + wrong), value))
        assert expected
        np.testing.assert_allclose(np.column_stack([recall, precision, score]), expected)


def test_write_matches__are_read_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    matches = {"bbox": draw_matches(rng, "coco"), "segm": draw_matches(rng, "coco", classes=1)}
    write_matches(tmp_path / "new" / "matches.npz", matches)
    read = read_matches(tmp_path / "new" / "matches.npz")
    assert list(read) == ["bbox", "segm"]
    for task, found in matches.items():
        for name, part in vars(found).items():
            expected = part.astype(np.float32) if name == "score" else part
            np.testing.assert_array_equal(getattr(read[task], name), expected)
        assert read[task].right.dtype == read[task].ignored.dtype == bool


def test_read_matches__refuses_other_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_matches(tmp_path / "matches.npz")
    path = tmp_path / "matches.npz"
    write_matches(path, {"bbox": draw_matches(np.random.default_rng(0), "coco")})
    whole = path.read_bytes()
    with np.load(path) as arrays:
        later = {**arrays, "version": np.array(2)}
    np.savez(tmp_path / "later.npz", **later)
    np.savez(tmp_path / "other.npz", scores=np.ones(3))
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.npz").write_bytes(b"")
    for name, message in {
        "later": "its version is 2",
        "other": "version is not a file",
        "half": "",
        "none": "",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.npz does not contain the matches of an evaluation: .*{message}"):
            read_matches(tmp_path / f"{name}.npz")
