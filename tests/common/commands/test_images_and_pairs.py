import pytest
from detectron2.config import get_cfg

from mocodet.common.commands.images_and_pairs import SECTIONS
from mocodet.detection import add_moco_config
from tests.commands import parsed

MODEL = ["--config-file", "toy_R_18_FPN_random.yaml", "--weights", "x.pth", "--output", "out"]


def test_sections__are_those_of_a_config():
    cfg = get_cfg()
    add_moco_config(cfg)
    assert set(cfg) == SECTIONS


@pytest.mark.parametrize(
    ("words", "images", "opts"),
    [
        ([*MODEL, "a.jpg", "b"], ["a.jpg", "b"], []),
        (["IMG_1.JPG", *MODEL, "MODEL.DEVICE", "cpu"], ["IMG_1.JPG"], ["MODEL.DEVICE", "cpu"]),
        ([*MODEL, "a", "SEED", "-1", "--no-pictures"], ["a"], ["SEED", "-1"]),
        ([*MODEL, "INPUT", "INPUT.FORMAT", "RGB"], ["INPUT"], ["INPUT.FORMAT", "RGB"]),  # a folder of that name
    ],
)
def test_words__images_end_at_the_first_key(tmp_path, monkeypatch, words, images, opts):
    (tmp_path / "INPUT").mkdir()
    monkeypatch.chdir(tmp_path)
    args = parsed("predict", words)
    assert (args.images, args.opts) == (images, opts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*MODEL, "a", "SEED"], "SEED has no VALUE; expected KEY VALUE pairs"),
        ([*MODEL, "a", "--threshold", "2"], "expected a score from 0 to 1, got 2"),
        ([*MODEL, "SEED", "1"], "no IMAGES given; list image files or folders"),
        (["--config-file", "none.yaml", *MODEL[2:], "a"], "--config-file: there is no config 'none.yaml'"),
    ],
)
def test_words__bad_ones_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        parsed("predict", words)
    assert message in capsys.readouterr().err
