import pytest

from mocodet.common.retention import Retention

NAMES = [f"model_{number:07d}.pth" for number in range(1, 20, 2)]  # one after every other iteration
OTHERS = ["model_final.pth", "last_checkpoint", "model_0000003.pth.part", "my_model_0000003.pth"]


@pytest.mark.parametrize(
    ("retention", "last", "kept"),
    [
        (Retention(3), 19, [15, 17, 19]),
        (Retention(1), 19, [19]),
        (Retention(3), 5, [5, 15, 17, 19]),  # a run that went back to an older one
        (Retention(20), 19, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),
        (Retention(2, milestone=6), 19, [5, 11, 17, 19]),
        (Retention(1, milestone=2), 19, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),
    ],
)
def test_superseded__all_but_newest_milestones_and_the_last(retention, last, kept):
    superseded = retention.superseded([*reversed(NAMES), *OTHERS], f"model_{last:07d}.pth")
    assert {*NAMES} - {*superseded} == {f"model_{number:07d}.pth" for number in kept}
    assert len(superseded) == len(NAMES) - len(kept)


def test_retention__of_a_run(tmp_path):
    for name in OTHERS:
        (tmp_path / name).touch()
    retention = Retention(3)
    for name in NAMES:
        (tmp_path / name).touch()
        retention.apply(tmp_path, name)
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES[-3:], *OTHERS}


def test_retention__what_a_run_with_another_rule_left_stays(tmp_path, caplog):
    for name in NAMES[:-2]:
        (tmp_path / name).touch()
    retention = Retention(2)
    for name in NAMES[-2:]:
        (tmp_path / name).touch()
        retention.apply(tmp_path, name)
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES[:-3], *NAMES[-2:]}
    assert caplog.text.count("contains 7 older checkpoints") == 1


def test_retention__a_file_that_cannot_be_removed_ends_no_training(tmp_path, caplog):
    for name in (NAMES[1], NAMES[-1]):
        (tmp_path / name).touch()
    (tmp_path / NAMES[0]).mkdir()
    Retention(1).apply(tmp_path, NAMES[-1])
    assert {path.name for path in tmp_path.iterdir()} == {NAMES[0], NAMES[-1]}
    assert f"the superseded checkpoint {NAMES[0]} could not be removed: " in caplog.text
