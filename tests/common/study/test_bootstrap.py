import numpy as np
import pytest

from mocodet.common.matches import Matches, write_matches
from mocodet.common.study.aggregate import aggregate
from mocodet.common.study.bootstrap import draw_weights, image_intervals, percentiles, resample
from tests.common.study.contents import content_of
from tests.common.test_matches import draw_matches


def easy(found: np.ndarray, images: np.ndarray | None = None) -> Matches:
    """Make one class with an object in each image; ``found`` says which objects are found, with equal scores."""
    place = np.flatnonzero(found)
    right = np.ones((2, len(place)), dtype=bool)
    return Matches(
        metric="voc2012",
        thresholds=np.array([0.5, 0.75]),
        classes=np.array(["cat"]),
        images=np.arange(len(found)).astype(str) if images is None else images,
        begin=np.array([0, len(place)]),
        score=np.linspace(1, 0.5, len(place)),
        image=place,
        right=right,
        ignored=~right,
        objects_begin=np.array([0, len(found)]),
        object_image=np.arange(len(found)),
    )


def write_study(folder, **matches: list[Matches | None]) -> dict:
    """Write the detections of the trials; return the content of ``results.json``."""

    def metrics(found: Matches | None) -> dict[str, float]:
        values = found.metrics() if found else {"AP50": 1.0, "AP": 1.0, "AP75": 1.0}
        return {f"bbox/{name}": float(np.squeeze(values[name])) for name in ("AP50", "AP", "AP75")}

    content = content_of({init: [metrics(found) for found in of_init] for init, of_init in matches.items()})
    for trial in content["trials"]:
        if found := matches[trial["init"]][trial["seed"]]:
            write_matches(folder / trial["folder"] / "matches.npz", {"bbox": found})
    return content


def test_draw_weights__are_resamples_and_repeat():
    weights = np.concatenate(list(draw_weights(50, resamples=230)), axis=1)
    assert weights.shape == (50, 230)
    assert (weights.sum(axis=0) == 50).all()
    assert 0.3 < (weights == 0).mean() < 0.42  # (1 - 1/50)^50 = 0.364
    again = np.concatenate(list(draw_weights(50, resamples=230)), axis=1)
    np.testing.assert_array_equal(weights, again)
    assert (weights != np.concatenate(list(draw_weights(50, resamples=230, seed=1)), axis=1)).any()


def test_resample__is_metrics_by_weights():
    found = {task: draw_matches(np.random.default_rng(0), "coco") for task in ("bbox", "segm")}
    weights = np.concatenate(list(draw_weights(12, resamples=130, seed=3)), axis=1)
    metrics = resample(found, resamples=130, seed=3)
    assert metrics.keys() == {f"{task}/{name}" for task in found for name in ("AP", "AP50", "AP75")}
    np.testing.assert_array_equal(metrics["segm/AP75"], found["segm"].metrics(weights)["AP75"])


def test_image_intervals__are_percentiles_of_the_mean_gap_on_the_same_images(tmp_path):
    rng = np.random.default_rng(0)
    kept = {init: [draw_matches(rng, "voc2007", classes=1) for _ in range(2)] for init in ("random", "moco")}
    content = write_study(tmp_path, **kept)
    _, moco = aggregate(content, folder=tmp_path)
    weights = np.concatenate(list(draw_weights(12)), axis=1)
    for name in ("AP", "AP50", "AP75"):
        own, reference = (np.array([of.metrics(weights)[name] for of in kept[init]]) for init in ("moco", "random"))
        gaps = (own - reference).mean(axis=0)
        gaps = np.sort(gaps[~np.isnan(gaps)])  # a few resamples hold no object
        gap = moco.metrics[f"bbox/{name}"].gap
        for place, bound in ((0.025, gap.image_low), (0.975, gap.image_high)):
            first, part = divmod(place * (len(gaps) - 1), 1)
            assert bound == pytest.approx((1 - part) * gaps[int(first)] + part * gaps[int(first) + 1])
        assert gap.image_low < gap.mean < gap.image_high
    assert aggregate(content)[1].metrics["bbox/AP"].gap.image_low is None


def test_percentiles__cover_the_true_gap():
    """200 test sets of 120 images: one model finds those whose ease is above a half, the other finds them by chance."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        ease = rng.random(120)
        own, reference = ease > 0.5, ease > rng.uniform(0.5, 0.9, 120)  # 50 % and 30 % of the images
        metrics = [resample({"bbox": easy(found)}, resamples=100)["bbox/AP50"] for found in (own, reference)]
        low, high = percentiles(metrics[0] - metrics[1])
        inside += low <= 50 - 30 <= high
    assert 0.89 < inside / 200 < 0.99


def test_image_intervals__need_what_every_trial_of_a_pair_kept(tmp_path):
    found = easy(np.arange(9) < 5)
    content = write_study(tmp_path, random=[found, None], moco=[found, found], other=[None, found])
    assert image_intervals(content["trials"], "random", tmp_path) == {}
    content["trials"] = [trial for trial in content["trials"] if trial["seed"] != 1]
    assert list(image_intervals(content["trials"], "random", tmp_path)) == [("FPN", 1.0, "moco")]
    assert aggregate(content, folder=tmp_path)[1].metrics["bbox/AP"].gap.image_low == 0


def test_image_intervals__refuse_different_images(tmp_path):
    found, other = easy(np.arange(9) < 5), easy(np.arange(9) < 5, images=np.array(list("abcdefghi")))
    content = write_study(tmp_path, random=[found], moco=[other])
    with pytest.raises(ValueError, match=r"moco/labels_100/seed_0 and .*random.* were evaluated on different images"):
        aggregate(content, folder=tmp_path)


def test_image_intervals__omit_another_evaluation(tmp_path, caplog):
    """For example, a trial that was evaluated again on another device."""
    found = easy(np.arange(9) < 5)
    content = write_study(tmp_path, random=[found], moco=[found], other=[found])
    (moco,) = [trial for trial in content["trials"] if trial["init"] == "moco"]
    moco["metrics"]["bbox/AP50"] += 1
    assert list(image_intervals(content["trials"], "random", tmp_path)) == [("FPN", 1.0, "other")]
    assert "the interval over images is omitted for FPN, moco, because" in caplog.text
    assert "matches.npz is not from the evaluation of the results: bbox/AP50 is 55.556 in this file" in caplog.text
