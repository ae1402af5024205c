"""The wheel holds what a user of it needs, and nothing that could shadow a module of theirs."""

import configparser
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import mocodet
from mocodet import configs
from mocodet.detection.data.toy import TOY_CLASSES

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
    packed = [name for name in names if name.startswith("mocodet/configs/") and name.endswith(".yaml")]
    assert {name.removeprefix("mocodet/configs/") for name in packed} == yaml
    page = {
        f"mocodet/{path.relative_to(ROOT)}" for path in (ROOT / "common/report").rglob("*.*") if path.suffix != ".pyc"
    }
    assert {name for name in names if name.startswith("mocodet/common/report/")} == page
    modules = {
        str(path.relative_to(ROOT)).removeprefix("common/package/")
        for room in ("common", "configs", "pretrain", "detection")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {name.removeprefix("mocodet/") for name in names if name.endswith(".py")} == modules
    typed = {"", "common/", "pretrain/", "detection/", "configs/"}
    assert {name for name in names if name.endswith("py.typed")} == {f"mocodet/{room}py.typed" for room in typed}


def test_wheel__requires_the_opencv_that_is_installed(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(metadata).decode().splitlines()
    required = [line.split()[1].split(">")[0] for line in lines if line.startswith("Requires-Dist: opencv")]
    assert len(required) == 1, "distributions of OpenCV overwrite each other"
    assert importlib.metadata.version(required[0])


def test_version__is_the_same_everywhere(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {mocodet.__version__}\n" in wheel.read(metadata).decode()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mocodet.__version__


def test_wheel__one_command(wheel):
    parser = configparser.ConfigParser()
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser.read_string(wheel.read(entry_points).decode())
    assert dict(parser["console_scripts"]) == {"mocodet": "mocodet.__main__:main"}


def test_wheel__runs_a_study_in_an_empty_folder(wheel, tmp_path):
    """The installed command trains, evaluates and tabulates two trials on the toy set, from packaged configs."""
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel.filename]
    subprocess.run(pip, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONWARNINGS": "ignore"}

    def run(*command: object) -> str:
        done = subprocess.run(list(map(str, command)), cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    script = (
        "import mocodet.configs, mocodet.pretrain; from mocodet.detection.data import toy;"
        "toy.make_toy_data('toy', train=8, test=8, unlabelled=0, size=64);"
        "print(mocodet.configs.path('coco_R_50_FPN_2x_moco.yaml'), mocodet.pretrain.__file__, toy.__file__)"
    )
    assert all(part.startswith(str(site)) for part in run(sys.executable, "-c", script).split())
    entries = [
        {"NAME": f"toy_{split}", "KIND": "voc", "ROOT": "toy/voc/VOC2007", "SPLIT": split, "CLASSES": list(TOY_CLASSES)}
        for split in ("trainval", "test")
    ]
    small = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (), "SOLVER.IMS_PER_BATCH": 2, "SOLVER.AMP.ENABLED": False}
    small |= {"TEST.PRECISE_BN.ENABLED": False, "MODEL.DEVICE": "cpu", "MOCO.DATASETS": entries}
    inits = [
        "--init",
        "slow=toy_R_18_FPN_random.yaml,SOLVER.BASE_LR=0.001",
        "--init",
        "random=toy_R_18_FPN_random.yaml",
    ]
    options = [str(word) for pair in small.items() for word in pair]
    output = ["--reference", "random", "--seeds", "1", "--output", "study"]
    printed = run(site / "bin" / "mocodet", "study", *inits, *output, *options)
    assert "The table and all values were written to study: report.txt, report.md," in printed
    assert run(site / "bin" / "mocodet", "report", "study").splitlines()[0] == "study/report.html"
    assert "slow" in (here / "study" / "report.html").read_text(encoding="utf-8")
    trials = json.loads((here / "study" / "results.json").read_text())["trials"]
    assert [(trial["init"], trial["status"]) for trial in trials] == [("slow", "finished"), ("random", "finished")]
    for trial in trials:
        assert set(trial["metrics"]) == {"bbox/AP50", "bbox/AP", "bbox/AP75"}


def test_configs_path__unknown_names_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"'coco_R50_FPN_2x_moco\.yaml'; did you mean coco_R_50_FPN_2x_moco"):
        configs.path("coco_R50_FPN_2x_moco.yaml")
