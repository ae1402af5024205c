"""A complete user-defined kind of evaluation, and tests that the commands accept it."""

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from mocodet.detection.data.voc import load_voc
from mocodet.detection.evaluation.build import build_evaluator
from mocodet.detection.evaluation.kinds import KINDS, EvaluationKind, kind_of, register_kind
from mocodet.detection.evaluation.things import Thing
from mocodet.detection.visualize.draw import GAP, TITLE_HEIGHT
from tests.commands import evaluate, train, visualize
from tests.detection.tiny import CLASSES, empty_config, make_voc, new_name, options

FILE = "counts.json"
CONFIG = "pascal_voc_R_50_DC5_24k_random.yaml"
Found = dict[str, list[tuple[int, float, list[float]]]]  # image: class, score, box of each


class CountEvaluator(DatasetEvaluator):
    """The mean error of the number of detections in an image."""

    def __init__(self, dataset_name: str, output: str | None):
        self._truth = {record["image_id"]: len(record["annotations"]) for record in DatasetCatalog.get(dataset_name)}
        self._output = output
        self.reset()

    def reset(self) -> None:
        self._found: Found = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for record, output in zip(inputs, outputs, strict=True):
            found = output["instances"]
            columns = found.pred_classes, found.scores, found.pred_boxes.tensor
            self._found[record["image_id"]] = list(zip(*(column.tolist() for column in columns), strict=True))

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        if self._output:
            Path(self._output).mkdir(parents=True, exist_ok=True)
            Path(self._output, FILE).write_text(json.dumps(self._found))
        errors = [abs(len(self._found[image]) - count) for image, count in self._truth.items()]
        return OrderedDict(count={"error": sum(errors) / len(errors)})

    def evaluate_saved(self, path: Path) -> tuple[OrderedDict[str, dict[str, float]], int]:
        self._found = json.loads((path / FILE).read_text())
        return self.evaluate(), sum(map(len, self._found.values()))


def check(cfg: CfgNode, dataset_name: str) -> None:
    empty = [record["image_id"] for record in DatasetCatalog.get(dataset_name) if not record["annotations"]]
    if empty:
        raise ValueError(f"data set {dataset_name}: nothing to count in {', '.join(empty)}")


def read(path: Path, metadata: Metadata, records: Sequence[Mapping]) -> dict[str, list[Thing]]:
    found: Found = json.loads((path / FILE).read_text())
    return {
        image: [Thing(category, box, score) for category, score, box in things]
        for image, things in found.items()
    }  # fmt: skip


register_kind(
    EvaluationKind(
        "toy_count",
        build=lambda cfg, name, tasks, output: CountEvaluator(name, output),
        check=check,
        evaluate_saved=CountEvaluator.evaluate_saved,
        read=read,
    )
)


def register(root: Path, classes: Sequence[str] = CLASSES) -> str:
    """Register three images whose metadata ask for this kind."""
    make_voc(root, 3, "test")
    name = new_name()
    DatasetCatalog.register(name, lambda: load_voc(name, str(root), "test", classes))
    MetadataCatalog.get(name).set(thing_classes=list(classes), evaluator_type="toy_count")
    return name


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[str, list[str], Path]:
    """A data set, the config's overrides and the OUTPUT_DIR of a detector that was trained and evaluated on it."""
    root = tmp_path_factory.mktemp("toy_kind")
    name, entry, output = register(root / "test"), make_voc(root / "train", 2), root / "out"
    keys = {"MOCO__DATASETS": [entry], "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0, "TEST__PRECISE_BN__ENABLED": False}
    opts = options(output, entry, {"NAME": name}, SOLVER__MAX_ITER=1, **keys)
    train(["--config-file", CONFIG, *opts])
    return name, opts, output


def results(path: Path, name: str) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text())[name]


def test_toy_kind__evaluates_after_training(trained):
    name, _, output = trained
    found = json.loads((output / "inference" / name / FILE).read_text())
    assert set(found) == {"test000", "test001", "test002"}
    assert any(found.values())
    expected = np.mean([abs(len(things) - 1) for things in found.values()])
    assert results(output / "results.json", name) == {"count": {"error": pytest.approx(expected)}}


def test_toy_kind__saved_predictions_are_evaluated(trained, tmp_path, capsys):
    name, opts, output = trained
    evaluate([str(output), "--dataset", name, "--output", str(tmp_path / "a.json")])
    assert results(tmp_path / "a.json", name) == results(output / "results.json", name)
    assert "predictions on" in capsys.readouterr().out
    folder = str(output / "inference" / name)
    evaluate([folder, "--output", str(tmp_path / "b.json"), "--config-file", CONFIG, *opts])
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


@pytest.mark.parametrize("command", [evaluate, visualize])
def test_commands__import_modules_before_they_look_for_the_data_set(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    module, name = new_name(), new_name()
    register_it = f"MetadataCatalog.get({name!r}).set(evaluator_type='x')\n"
    (tmp_path / f"{module}.py").write_text(f"from detectron2.data import MetadataCatalog\n{register_it}")
    words = [] if command is evaluate else ["--output", "out", "--predictions", "a=b"]
    words += ["--import", module, "--config-file", CONFIG, "--dataset", name, *(["b"] if command is evaluate else [])]
    with pytest.raises(SystemExit):  # the data set has no images
        command(words)
    assert MetadataCatalog.get(name).evaluator_type == "x"


def test_toy_kind__predictions_are_drawn(trained, tmp_path):
    _, opts, output = trained
    truth, found = [], []
    for threshold in ("0", "1.1"):
        flags = ["--predictions", f"toy={output}", "--image-id", "test001", "--threshold", threshold]
        visualize(["--config-file", CONFIG, "--output", str(tmp_path / threshold), *flags, *opts])
        page = np.array(Image.open(tmp_path / threshold / "test001.png"))[TITLE_HEIGHT:]
        width = (page.shape[1] - GAP) // 2
        truth.append(page[:, :width])
        found.append(page[:, -width:])
    assert np.array_equal(*truth)
    assert not np.array_equal(*found)


def test_toy_kind__is_checked_before_training(tmp_path):
    name, entry = register(tmp_path / "test"), make_voc(tmp_path / "train", 2)
    annotation = tmp_path / "test" / "Annotations" / "test001.xml"
    text = annotation.read_text()
    annotation.write_text(text[: text.index("<object>")] + "</annotation>")
    with pytest.raises(SystemExit, match=f"^error: data set {name}: nothing to count in test001$"):
        train(["--config-file", CONFIG, *options(tmp_path / "out", entry, {"NAME": name}, MOCO__DATASETS=[entry])])
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_register_kind__a_name_stands_for_one(tmp_path):
    name = register(tmp_path)
    assert kind_of(name) is KINDS["toy_count"]
    assert isinstance(build_evaluator(empty_config(OUTPUT_DIR=str(tmp_path)), name).evaluator, CountEvaluator)
    with pytest.raises(ValueError, match="evaluation kind 'toy_count' is already registered"):
        register_kind(kind_of(name))
