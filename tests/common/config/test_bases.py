"""Bases are found beside the file or among mocodet's own, once each, and never fetched."""

import pytest
from fvcore.common.config import CfgNode

from mocodet import configs
from mocodet.common.config.bases import read_settings


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize("name", ["pascal_voc_R_50_C4_24k_moco.yaml", "cityscapes_R_50_FCN_90k.yaml"])
def test_read_settings__equals_fvcore(name):
    path = configs.path(name)
    assert read_settings(path).content == CfgNode.load_yaml_with_base(str(path))


def test_read_settings__later_bases_win_and_the_file_over_all(tmp_path):
    write(tmp_path, a="S: {X: 1, Y: 1, Z: 1}\nT: {V: 1}\n", b="_BASE_: a.yaml\nS: {Y: 2}\n", c="S: {Z: 3}\n")
    write(tmp_path, d="_BASE_: [b.yaml, c.yaml]\n\nT:\n  U: 4\n")
    found = read_settings(tmp_path / "d.yaml")
    assert found.content == {"S": {"X": 1, "Y": 2, "Z": 3}, "T": {"U": 4, "V": 1}}
    assert found.content == CfgNode.load_yaml_with_base(str(tmp_path / "d.yaml"))
    assert found.places["S.Z"] == f"{tmp_path / 'c.yaml'}, line 1"
    assert found.places["T.U"] == f"{tmp_path / 'd.yaml'}, line 4"


@pytest.mark.parametrize("name", ["pretrain/own_images_R_50.yaml", "configs/pretrain/own_images_R_50.yaml"])
def test_read_settings__a_base_may_be_one_of_mocodets_own(tmp_path, name):
    write(tmp_path, mine=f"_BASE_: {name}\nSEED: 5\n")
    own = read_settings(configs.path("pretrain/own_images_R_50.yaml")).content
    assert read_settings(tmp_path / "mine.yaml").content == {**own, "SEED": 5}
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "configs" / "pretrain").mkdir(parents=True)
    (tmp_path / name).write_text("LOG_PERIOD: 1\n")  # a file beside it comes first
    assert read_settings(tmp_path / "mine.yaml").content == {"LOG_PERIOD": 1, "SEED": 5}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "SEED: 1\n_BASE_: nothing.yaml",
            r"mine\.yaml, line 2: _BASE_ is nothing\.yaml, but neither ",
        ),
        ("_BASE_: otter.yaml", r"_BASE_ is otter\.yaml, .*; did you mean other\.yaml\?$"),
        ("_BASE_: pretrain/own_image_R_50.yaml", r"; did you mean pretrain/own_images_R_50\.yaml\?$"),
        ("_BASE_: mine.yaml", r"mine\.yaml: _BASE_ leads back to the file itself \(mine\.yaml -> mine\.yaml\)"),
        ("_BASE_: other.yaml", r"mine\.yaml: _BASE_ leads back .*\(mine\.yaml -> other\.yaml -> mine\.yaml\)"),
        ("_BASE_: http://127.0.0.1:9/a.yaml", r"line 1: _BASE_ http://.*/a\.yaml is a URL, but .* not downloaded"),
        ("_BASE_: ~nobody_of_that_name/a.yaml", r"line 1: _BASE_ is ~nobody_of_that_name/a\.yaml, but"),
        ("_BASE_: [3]", r"line 1: _BASE_ is 3; expected the name of a config file, or a list of names$"),
        ("_BASE_:", r"line 1: _BASE_ is None; expected"),
        ("- a", r"mine\.yaml contains a list; expected a YAML config, KEY: VALUE$"),
        ("# nothing", r"mine\.yaml is empty; expected a YAML config, KEY: VALUE$"),
        ("SOLVER:\n  1: 2", r"mine\.yaml, line 1: expected the name of a key, such as SOLVER; got 1"),
        ("SOLVER.MAX_ITER: 3", r"line 1: SOLVER\.MAX_ITER is a key in a section; write  SOLVER:  and, indented"),
    ],
)
def test_read_settings__refuses(tmp_path, text, told):
    write(tmp_path, mine=text, other="_BASE_: mine.yaml")
    with pytest.raises(ValueError, match=told) as caught:
        read_settings(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


def test_read_settings__chains_are_bounded_and_files_are_read_once(tmp_path):
    # If it were read again for each file that names it, the last would be read 2^39 times.
    write(tmp_path, a0="SEED: 1", **{f"a{n}": f"_BASE_: [a{n - 1}.yaml, a{n - 1}.yaml]" for n in range(1, 60)})
    assert read_settings(tmp_path / "a40.yaml").content == {"SEED": 1}
    with pytest.raises(ValueError, match=r"the chain of _BASE_ has more than 50 files"):
        read_settings(tmp_path / "a59.yaml")
