"""The wheel holds what a user of it needs, and nothing that could shadow a module of theirs."""

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mocodet import configs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves build/ and *.egg-info beside setup.py.
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, folder, folder / "source"], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel__one_top_level_package_with_every_config(wheel):
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"mocodet"}
    yaml = {str(path.relative_to(configs.ROOT)) for path in configs.ROOT.rglob("*.yaml")}
    assert {name.removeprefix("mocodet/configs/") for name in names if name.endswith(".yaml")} == yaml
    modules = {
        str(path.relative_to(ROOT))
        for room in ("common", "configs", "pretrain", "detection")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name.removeprefix("mocodet/") for name in names if name.endswith(".py")} == modules


def test_wheel__works_where_there_is_no_checkout(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    script = (
        "import mocodet.configs, mocodet.pretrain, mocodet.detection, sys;"
        "print(mocodet.configs.path('coco_R_50_FPN_2x_moco.yaml'), mocodet.detection.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(part.startswith(str(tmp_path / "site")) for part in done.stdout.split())


def test_wheel__commands(wheel):
    parser = configparser.ConfigParser()
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser.read_string(wheel.read(entry_points).decode())
    names = {"pretrain", "classify", "knn", "linear", "shards", "costs", "convert", "train"}
    names |= {"evaluate", "visualize", "prepare-data"}
    assert set(parser["console_scripts"]) == {f"mocodet-{name}" for name in names}
    for target in parser["console_scripts"].values():
        module, function = target.split(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_configs_path__unknown_lists_the_known():
    with pytest.raises(FileNotFoundError, match=r"no config named 'x.yaml'; there are: .*coco_R_50_FPN_2x_moco.yaml"):
        configs.path("x.yaml")
