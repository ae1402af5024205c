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
        (["DATA.ROOT"], "DATA.ROOT has no VALUE; expected pairs of KEY VALUE at the end"),
        (["SEED", "1", "INPUT.FORMAT", "BGR", "DATA.ROOT"], "DATA.ROOT has no VALUE; "),
        (["DATA.ROOT", "OUTPUT_DIR", "x"], "DATA.ROOT has no VALUE, but OUTPUT_DIR follows; "),
        (["DATA.ROOT", "--resume"], "DATA.ROOT has no VALUE, but --resume follows; .*flags before them"),
        (["DATA.ROOT=/x"], "DATA.ROOT=/x is written with =; expected a KEY and its VALUE apart: DATA.ROOT /x$"),
        (["SEED", "1", "SEED="], "SEED= is written with =; .*: SEED VALUE$"),
        (["SEED", "1", "--num-gpus", "2"], r"--num-gpus stands after .*; flags come first: --num-gpus \.\.\. SEED 1"),
        (["DATA.ROOT", "my", "images", "SEED", "1"], "expected a KEY .*, got '1' after images SEED, and may be"),
        (
            ["DATA.ROOT", "my", "new/images", "x"],
            "got 'new/images' after DATA.ROOT my, and may be a part of that VALUE",
        ),
        (["[{'NAME':", "'mine'}]"], r"expected a KEY such as SOLVER.BASE_LR, got .*; put a VALUE with blanks"),
    ],
)
def test_read_pairs__refuses(words, told):
    with pytest.raises(ValueError, match=told):
        read_pairs(words)
