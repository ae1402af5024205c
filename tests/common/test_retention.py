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
def test_retention__newest_milestones_and_the_last_stay(tmp_path, retention, last, kept):
    for name in [*reversed(NAMES), *OTHERS]:
        (tmp_path / name).touch()
    retention.apply(tmp_path, f"model_{last:07d}.pth")
    expected = {f"model_{number:07d}.pth" for number in kept}
    assert {path.name for path in tmp_path.iterdir()} == expected | set(OTHERS)


def test_retention__a_file_that_cannot_be_removed_ends_no_training(tmp_path, caplog):
    for name in NAMES[1:]:
        (tmp_path / name).touch()
    (tmp_path / NAMES[0]).mkdir()
    Retention(1).apply(tmp_path, NAMES[-1])
    assert {path.name for path in tmp_path.iterdir()} == {NAMES[0], NAMES[-1]}
    assert f"{NAMES[0]}, which newer checkpoints supersede, stays: " in caplog.text
