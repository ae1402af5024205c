import pytest

from mocodet.common.prepare.datasets import plan_of
from tests.commands import prepare_data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "a.json", "--check"], "--json and --images"),
        (["--check", "--only", "val2017"], "--only cannot be used with --check"),
        (["--check", "--again"], "--again cannot be used with --check"),
        (["--any-size"], "--any-size can only be used with --check"),
        (["--json", "a.json", "--images", "b"], "--json can only be used with --check"),
        (
            ["--json", "a", "--images", "b", "--check", "--any-size"],
            "--any-size has no effect on your own data set",
        ),
    ],
)
def test_cli__options_without_effect_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        prepare_data(["coco", "--root", "/nowhere", *arguments])
    assert ended.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_cli__unknown_part_is_refused():
    with pytest.raises(
        SystemExit, match="--only test2017: unknown part; expected one of annotations, val2017, train2017"
    ):
        prepare_data(["coco", "--root", "/nowhere", "--only", "test2017", "--dry-run"])


def test_check__generated_layouts_have_no_fault(tmp_path):
    from tests.rehearsal.layouts import make_layouts

    make_layouts(tmp_path / "data", size=48, train=2, val=2)
    for name in ("voc", "coco", "lvis", "cityscapes"):
        with pytest.raises(SystemExit) as ended:
            prepare_data([name, "--check", "--any-size", "--root", str(tmp_path / "data"), "--workers", "0"])
        assert ended.value.code == 0, name


@pytest.mark.parametrize("name", ["voc", "coco", "cityscapes", "imagenet"])
def test_cli__dry_run_uses_the_environment(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    prepare_data([name, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("to do: ") and str(tmp_path / "sets") in line for line in lines)
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize("name", ["cityscapes", "imagenet"])
def test_cli__archives_to_be_fetched_by_hand_are_all_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: package)  # whether installed or not
    with pytest.raises(SystemExit) as ended:
        prepare_data([name, "--root", str(tmp_path), "--archives", str(tmp_path / "fetched")])
    assert all(archive.name in ended.value.code for archive in plan_of(name, tmp_path).archives)
    assert "log in at https://" in ended.value.code
    assert "\n" not in ended.value.code
