import pytest

from mocodet.common.report.findings import compare, compare_others, metric_names
from mocodet.common.study.aggregate import Cell, Row
from mocodet.common.study.statistics import Gap


def row(init, **bounds):
    """A row with gaps of the given intervals, by metric."""
    metrics = {
        f"bbox/{name}": Cell(1.0, None, Gap((low + high) / 2 if low is not None else high, None, low, high, 3))
        for name, (low, high) in bounds.items()
    }
    return Row("FPN", init, 1.0, "random", 3, 0, 0, metrics)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        (
            {"AP50": (1.2, 3.7), "AP": (1.0, 2.9), "AP75": (0.02, 3.5)},
            "moco is better than random by 1.2 to 3.7 AP50, 1.0 to 2.9 AP and 0.02 to 3.5 AP75.",
        ),
        (
            {"AP50": (1.2, 3.7), "AP": (-0.3, 2.9)},
            "moco is better than random by 1.2 to 3.7 AP50; in AP, the two cannot be told apart (AP −0.3 to 2.9).",
        ),
        ({"AP50": (-1.2, 3.7)}, "moco cannot be told apart from random (AP50 −1.2 to 3.7)."),
        ({"AP50": (-3.7, -1.2)}, "moco is worse than random by 1.2 to 3.7 AP50."),
        (
            {"AP50": (0.5, 1.0), "AP": (-2.0, -1.0)},
            "moco is better than random by 0.5 to 1.0 AP50 and worse than random by 1.0 to 2.0 AP.",
        ),
    ],
)
def test_compare(bounds, sentence):
    assert compare(row("moco", **bounds), "random") == sentence


def test_compare__one_pair_and_none():
    one = Row("FPN", "moco", 1.0, "random", 1, 0, 0, {"bbox/AP": Cell(3.0, None, Gap(-1.5, None, None, None, 1))})
    assert compare(one, "random") == (
        "moco differs from random by −1.5 AP in a single pair of trials, which may be due to chance."
    )
    none = Row("FPN", "moco", 1.0, "random", 0, 1, 0, {})
    assert compare(none, "random") == "moco and random have no finished trials with the same seed."


def test_compare_others():
    alike = [("moco", row("dense", AP=(-1, 1))), ("moco", row("coco", AP=(-1, 1))), ("dense", row("coco", AP=(-1, 2)))]
    assert compare_others(alike) == ["No two of moco, dense and coco can be told apart."]
    told = ("dense", row("coco", AP=(1, 2)))
    assert compare_others([*alike[:2], told]) == [
        "coco is better than dense by 1.0 to 2.0 AP.",
        "These pairs cannot be told apart: dense and moco; coco and moco.",
    ]
    assert compare_others(alike[:1]) == ["dense cannot be told apart from moco (AP −1.0 to 1.0)."]
    assert compare_others([]) == []


def test_compare_others__says_nothing_without_intervals():
    one = {"bbox/AP": Cell(3.0, None, Gap(-1.5, None, None, None, 1))}
    unknown = [("moco", Row("FPN", init, 1.0, "moco", 1, 0, 0, metrics)) for init, metrics in (("a", one), ("b", {}))]
    assert compare_others(unknown) == []
    assert compare_others([*unknown, ("a", row("b", AP=(-1, 2)))]) == [
        "b cannot be told apart from a (AP −1.0 to 2.0)."
    ]


def test_metric_names():
    assert metric_names(["bbox/AP50", "bbox/AP"]) == {"bbox/AP50": "AP50", "bbox/AP": "AP"}
    assert metric_names(["bbox/AP", "segm/AP"]) == {"bbox/AP": "AP box", "segm/AP": "AP mask"}
