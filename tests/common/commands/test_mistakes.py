"""Ordinary mistakes: one line says what was found, what is expected and what to do, before anything is written."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mocodet.common.commands.main import main
from mocodet.common.errors import MissingPackageError
from mocodet.common.requirements import INSTALL_HELP
from tests.detection.tiny import make_voc

PRETRAIN = ["pretrain", "--config-file", "small.yaml"]
TRAIN = ["train", "--config-file", "detector.yaml"]
STUDY = ["study", "--init", "a=detector.yaml", "--reference", "a", "--output", "study"]

# fmt: off
# Number in the list of mistakes, command, message. Numbers are those of the reports behind the issue.
MISTAKES = [
    ("1", [*PRETRAIN, "DATA.ROOT", "nowhere"], r"DATA\.ROOT 'nowhere' is not a folder; expected a folder that con"),
    ("1", [*PRETRAIN, "DATA.ROOT", ""], r"DATA\.ROOT is ''; expected a folder of images, for example DATA\.ROOT image"),
    ("1", [*PRETRAIN, "DATA.ROOT", "empty"], r"DATA\.ROOT 'empty' contains no images; it was searched recursive"),
    ("1", [*PRETRAIN, "KNN.TRAIN_ROOT", "no", "KNN.VAL_ROOT", "images"], r"KNN\.TRAIN_ROOT 'no' is not a folder; exp"),
    ("1", ["classify", "--config-file", "supervised.yaml", "DATA.VAL_ROOT", "no"], r"DATA\.VAL_ROOT 'no' is not a fol"),
    ("2", ["pretrain", "--config-file", "smal.yaml"], r"there is no config 'smal\.yaml'; did you mean small\.yaml\?"),
    ("2", ["train", "--config-file", "coco_R50_FPN_1x.yaml"], r"did you mean coco_R_50_FPN_1x\.yaml\?"),
    ("2", ["costs", "--images", "8", "--config-file", "moco_v2_R_50.yaml"], r"did you mean pretrain/moco_v2_R_50_800"),
    ("2", ["evaluate", "x", "--config-file", "detecter.yaml"], r"did you mean detector\.yaml\?"),
    ("2", ["study", "studies/tabel_4.yaml"], r"study studies/tabel_4\.yaml not found; .*did you mean studies/table_"),
    ("3", [*PRETRAIN, "DATA.ROT", "x"], r"the overrides: unknown key DATA\.ROT; did you mean DATA\.ROOT\?"),
    ("3", [*TRAIN, "SOLVER.MAX_ITERS", "5"], r"unknown key SOLVER\.MAX_ITERS; did you mean SOLVER\.MAX_ITER\?"),
    ("3", ["visualize", *TRAIN[1:], "--predictions", "a=x", "--output", "y", "TEST.X", "1"], r"unknown key TEST\.X;"),
    ("4", [*PRETRAIN, "solver.max_epochs", "3"], r"unknown key solver\.max_epochs; did you mean SOLVER\.MAX_EPOCHS\?"),
    ("5", [*TRAIN, "SOLVER.MAX_ITER", "3", "DATASETS.TRAIN"], r"DATASETS\.TRAIN has no VALUE; expected KEY VALUE pai"),
    ("5", [*PRETRAIN, "DATA.ROOT", "OUTPUT_DIR", "x"], r"DATA\.ROOT has no VALUE, but is followed by OUTPUT_DIR; exp"),
    ("5", [*STUDY, "SOLVER.MAX_ITER"], r"SOLVER\.MAX_ITER has no VALUE"),
    ("6", [*PRETRAIN, "SOLVER.MAX_EPOCHS", "ten"], r"SOLVER\.MAX_EPOCHS is 'ten'; expected an integer, such as 20"),
    ("6", ["train", "--config-file", "ten.yaml"], r"ten\.yaml, line 3: SOLVER\.MAX_ITER is 'ten'; expected an integer"),
    ("8", [*PRETRAIN, "DATA.ROOT=images"], r"DATA\.ROOT=images contains =; separate .*: DATA\.ROOT images"),
    ("9", [*TRAIN, "SOLVER.MAX_ITER", "3", "--num-gpus", "2"], r"--num-gpus must not follow the KEY .*; put flags"),
    ("9", ["train", "SEED", "1", "--config-file", "detector.yaml"], r"--config-file must not follow the KEY VALUE pai"),
    ("9", [*STUDY, "SEED", "3", "--num-gpus", "2"], r"unrecognized arguments: --num-gpus"),
    ("10", [*PRETRAIN, "--num-gpus", "8"], r"8 processes .*, but .* no GPU .* MODEL\.DEVICE is 'auto'; add  MODEL\."),
    ("10", [*TRAIN, "--num-gpus", "2"], r"2 processes .*, but .* no GPU .* MODEL\.DEVICE is 'cuda'; add  MODEL\."),
    ("17", [*TRAIN, "MODEL.WEIGHTS", "no.pkl"], r"MODEL\.WEIGHTS is no\.pkl, .*own_images_R_50\.yaml .*mocodet con"),
    ("17", [*PRETRAIN, "MODEL.WEIGHTS", "no.pth"], r"MODEL\.WEIGHTS: there is no checkpoint no\.pth; specify a file"),
    ("17", [*PRETRAIN, "--resume-from", "no.pth"], r"--resume-from: there is no checkpoint no\.pth; specify a file"),
    ("25", ["evaluate", "p.json", "--json", "empty.json"], r"empty\.json: lacks .*: it is an empty object; export it "),
    ("25", ["evaluate", "p.json", "--json", "p.json"], r"p\.json: lacks .*: it is a list of predictions .*; specify"),
    ("25", ["evaluate", "p.json", "--json", "labelme.json"], r"labelme\.json: lacks .*: it is a LabelMe file .*; expo"),
    ("25", ["evaluate", "p.json", "--json", "test.json"], r"test\.json contains no annotations, .*; specify a file th"),
    ("25", ["evaluate", "p.json", "--json", "images/0.png"], r"images/0\.png: is not UTF-8, .*; save it as UTF-8"),
    ("27", [*PRETRAIN, "OUTPUT_DIR", "p.json/out"], r"OUTPUT_DIR is 'p\.json/out', but \S+p\.json is not a folder; c"),
    ("27", [*TRAIN, "OUTPUT_DIR", "p.json"], r"OUTPUT_DIR is 'p\.json', but \S+p\.json is not a folder; choose a fol"),
    ("27", [*TRAIN, "--eval-only", "OUTPUT_DIR", "p.json"], r"OUTPUT_DIR is 'p\.json', but \S+p\.json is not a folder"),
    ("27", [*STUDY[:-1], "p.json"], r"--output p\.json: \S+p\.json is not a folder; choose a writable path"),
    ("27", ["convert", "images/0.png", "p.json/x.pkl"], r"output p\.json/x\.pkl: \S+p\.json is not a folder; choose a"),
    ("27", ["knn", "a.pth", "--train", "a", "--val", "b", "--output", "images"], r"--output images: images is a folde"),
    ("27", ["prepare-data", "images", "images", "--output", "empty"], r"--output empty: empty is a folder; choose a w"),
    ("27", ["benchmark", "step", "--json", "p.json/x"], r"--json p\.json/x: \S+p\.json is not a folder; choose a writ"),
    ("28", ["train", "--config-file", "baseless.yaml"], r"baseless\.yaml, line 1: _BASE_ is nothing\.yaml, but neit"),
    ("28", ["convert", "smal.pth", "x.pkl"], r"there is no checkpoint smal\.pth; did you mean small\.pth\?"),
    ("28", ["convert", "images", "x.pkl"], r"images is a folder; specify the checkpoint in it, such as images/mod"),
    ("28", ["convert", "--to", "torchvision", "no.pth", "x.pth"], r"there is no checkpoint no\.pth; specify a file "),
    ("29", ["pretrain", "--config-file", "broken.yaml"], r"broken\.yaml, line 2: mapping values are not allowed here;"),
    ("29", ["study", "broken.yaml"], r"broken\.yaml, line 2: mapping values are not allowed here; put KEY: VALUE on a"),
    ("29", ["train", "--config-file", "itself.yaml"], r"itself\.yaml: _BASE_ leads back to the file itself"),
    ("29", ["train", "--config-file", "fetched.yaml"], r"fetched\.yaml, line 1: _BASE_ http://127\S+ .* are not down"),
    ("30", ["train", "--config-file", "flow.yaml"], r"flow\.yaml, line 1: SOLVER\.STEPS is '\(2'; .*: inside braces"),
    ("31", [*TRAIN, "MOCO.DATASETS", "[{NAME: a]"], r"MOCO\.DATASETS is .*; expected a list, such as .*\[{'NAME': "),
    ("32", ["convert", "p.json", "x.pkl"], r"p\.json cannot be read as a checkpoint|p\.json is JSON text, not a check"),
]
# fmt: on


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("images").mkdir()
    Path("empty").mkdir()
    Image.fromarray(np.full((8, 8, 3), 130, np.uint8)).save("images/0.png")
    Path("small.pth").write_bytes(b"")
    texts = {
        "small.yaml": "_BASE_: pretrain/own_images_R_18.yaml\nDATA: {ROOT: images}\nOUTPUT_DIR: out\n",
        "supervised.yaml": "_BASE_: pretrain/supervised_R_50_90ep.yaml\nDATA: {ROOT: images}\nOUTPUT_DIR: out\n",
        "ten.yaml": "_BASE_: detector.yaml\nSOLVER:\n  MAX_ITER: ten\n",
        "flow.yaml": "SOLVER: {STEPS: (2,)}\n",
        "baseless.yaml": "_BASE_: nothing.yaml\n",
        "itself.yaml": "_BASE_: itself.yaml\n",
        "fetched.yaml": "_BASE_: http://127.0.0.1:9/a.yaml\n",
        "broken.yaml": "SOLVER:\n  BASE_LR: 1: 2\n",
        "empty.json": "{}",
        "p.json": json.dumps([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1.0}]),
        "labelme.json": json.dumps({"version": "5", "shapes": [], "imagePath": "a.jpg"}),
        "test.json": json.dumps({"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1, "name": "a"}]}),
    }
    voc = make_voc(tmp_path / "voc", 1, "train")
    datasets = {"MOCO": {"DATASETS": [voc]}, "DATASETS": {"TRAIN": [voc["NAME"]], "TEST": [voc["NAME"]]}}
    base = {"_BASE_": "coco_R_50_FPN_1x_random.yaml", "OUTPUT_DIR": "out/deep"}
    texts["detector.yaml"] = json.dumps({**base, **datasets, "MODEL": {"MASK_ON": False}})
    for name, text in texts.items():
        Path(name).write_text(text)
    return tmp_path


def told(words: list[str], capsys) -> str:
    """Run a command that is refused; return its message, which is one line and nothing else."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr()
    line = printed.err if isinstance(ended.value.code, int) else f"{ended.value.code}\n"
    assert ended.value.code not in (0, None)
    assert (printed.out, line.count("\n"), line.count("error: ")) == ("", 1, 1), printed.out + line
    return line


@pytest.mark.parametrize(("number", "words", "message"), MISTAKES)
def test_mistake__is_told_in_one_line_before_anything_is_written(place, number, words, message, capsys):
    before = sorted(place.rglob("*"))
    assert re.search(message, told(words, capsys))
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TRAIN, "MODEL.DEVICE", "gpu"], r"MODEL\.DEVICE is 'gpu'; expected cpu, cuda, or cuda:N"),
        ([*TRAIN, "--eval-only", "INPUT.FORMAT", "rgb"], r"INPUT\.FORMAT is 'rgb'; expected .*; did you mean RGB\?"),
        ([*TRAIN, "MODEL.WEIGHTS", "", "DATASETS.TRAIN", "(1,)"], r"DATASETS contains 1; expected the names of data"),
        ([*TRAIN, "MOCO.DATASETS", "[{KIND: [coco]}]"], r"KIND must be one of voc, coco, yolo, semseg, got \['coco'\]"),
    ],
)
def test_mistake__in_a_value_of_detectron2_or_of_a_data_set(place, words, message, capsys):
    before = sorted(place.rglob("*"))
    assert re.search(message, told(words, capsys))
    assert sorted(place.rglob("*")) == before


def test_ctrl_c__is_one_line_and_status_130(place):
    """During the long import of a package, in the program and in the processes of its group."""
    script = (
        "import signal, sys, mocodet.common.commands.main as main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background job ignores
        "main.resolve_name = lambda name: lambda args: (print('begun', flush=True), sys.stdin.read())\n"
        "main.run()\n"
    )
    command = [sys.executable, "-c", script, "convert", "small.pth", "x.pkl"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        _, told_there = process.communicate(timeout=60)
    assert (process.returncode, told_there) == (130, "interrupted\n")


def test_no_detectron2__is_told_in_one_line(place, monkeypatch, capsys):
    def missing(name: str) -> None:
        raise MissingPackageError(f"mocodet requires detectron2, which is not installed; {INSTALL_HELP}")

    monkeypatch.setattr("mocodet.common.commands.main.resolve_name", missing)
    message = r"^error: mocodet requires detectron2, which is not installed; install it with  make setup .* pip inst"
    assert re.search(message, told([*PRETRAIN], capsys))
