import pytest

from mocodet.common.config.pairs import read_pairs


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["DATA.ROOT", "my images", "OUTPUT_DIR", "a=b"],
        ["INPUT.FORMAT", "BGR", "SOLVER.STEPS", "()"],
        ["SEED", "-1", "DATA.ROOT", ""],
    ],
)
def test_read_pairs__good(words):
    assert read_pairs(words) == list(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["DATA.ROOT"], "DATA.ROOT has no VALUE; expected KEY VALUE pairs at the end"),
        (["SEED", "1", "INPUT.FORMAT", "BGR", "DATA.ROOT"], "DATA.ROOT has no VALUE; "),
        (["DATA.ROOT", "OUTPUT_DIR", "x"], "DATA.ROOT has no VALUE, but is followed by OUTPUT_DIR; "),
        (["DATA.ROOT", "--resume"], "DATA.ROOT has no VALUE, but is followed by --resume; .*after all flags"),
        (["DATA.ROOT=/x"], "DATA.ROOT=/x contains =; separate the KEY from its VALUE with a space: DATA.ROOT /x$"),
        (["SEED", "1", "SEED="], "SEED= contains =; .*: SEED VALUE$"),
        (["SEED", "1", "--num-gpus", "2"], r"--num-gpus must not follow .*; put flags first: --num-gpus \.\.\. SEED 1"),
        (["DATA.ROOT", "my", "images", "SEED", "1"], "expected a KEY .*; got '1' after images SEED, which may be"),
        (
            ["DATA.ROOT", "my", "new/images", "x"],
            "got 'new/images' after DATA.ROOT my, which may be part of that VALUE",
        ),
        (["[{'NAME':", "'mine'}]"], r"expected a KEY such as SOLVER.BASE_LR; got .*; put a VALUE that contains spaces"),
    ],
)
def test_read_pairs__refuses(words, told):
    with pytest.raises(ValueError, match=told):
        read_pairs(words)
