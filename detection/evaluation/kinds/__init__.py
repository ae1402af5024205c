"""How the data sets of each ``evaluator_type`` are evaluated: an `EvaluationKind` per type, in a file of this folder.

To add a kind, add a file that calls `register_kind`. Your own kind may be in any module: importing it registers it.
"""

import importlib
import importlib.util
import pkgutil
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from mocodet.common.matches import Matches

from ..things import Thing

Results = OrderedDict[str, dict[str, float]]  # task: metric: value


@dataclass(frozen=True)
class EvaluationKind:
    """How data sets of one ``evaluator_type`` are checked, evaluated and drawn.

    Attributes:
        evaluator_type: as in the metadata of the data sets.
        build: (config, data set, tasks, output) -> the evaluator. Tasks are among ``bbox``, ``segm`` and ``keypoints``;
            None means those that the predictions have. Predictions are written to the folder ``output`` if not None.
        check: (config, data set): checks, before a run that evaluates on the data set, that its metrics can be
            computed. Raises FileNotFoundError or ValueError.
        check_files: (data set): checks, before any run, files beyond the folders that the metadata name. Not called for
            data sets from ``MOCO.DATASETS``, which are read completely. Raises FileNotFoundError or ValueError.
        evaluate_saved: (evaluator, file or folder) -> the results of saved predictions, instead of those that the
            evaluator has processed, and the number of predictions; None: runs save none. Raises FileNotFoundError, or
            ValueError if the predictions are malformed, of another data set, or lack what a task needs.
        matches: (evaluator) -> which detections its last evaluation found right, by task, on the main process; None if
            that cannot be told, as when pixels are counted.
        read: (file or folder, metadata, records) -> saved predictions as things to draw, by the keys of the images
            (`image_key`); None: runs save none. Raises like ``evaluate_saved``.
        records: (data set) -> its records, with the model's class indices as categories; called after the evaluator has
            been built.
        tasks: the choices of ``mocodet evaluate --tasks``.
        has_label_images: whether the ground truth consists only of label images, not of objects.
        packages: modules that read or evaluate the data sets and that mocodet does not always need.
        install: the command that installs these packages.
    """

    evaluator_type: str
    build: Callable[[CfgNode, str, Sequence[str] | None, str | None], DatasetEvaluator]
    check: Callable[[CfgNode, str], object] = lambda cfg, dataset_name: None
    check_files: Callable[[str], object] = lambda dataset_name: None
    evaluate_saved: Callable[[Any, Path], tuple[Results, int]] | None = None
    matches: Callable[[Any], Mapping[str, Matches]] | None = None
    read: Callable[[Path, Metadata, Sequence[Mapping[str, Any]]], Mapping[str, list[Thing]]] | None = None
    records: Callable[[str], list[dict[str, Any]]] = DatasetCatalog.get
    tasks: tuple[str, ...] = ()
    has_label_images: bool = False
    packages: tuple[str, ...] = ()
    install: str = ""

    def check_packages(self, dataset_name: str) -> None:
        """Check that the packages for a data set of this kind are installed.

        Raises:
            ValueError: the message names them and the command that installs them.
        """
        missing = [module for module in self.packages if importlib.util.find_spec(module) is None]
        if missing:
            raise ValueError(
                f"data set {dataset_name} needs the packages {' and '.join(missing)}, which are not installed; run "
                f" {self.install}"
            )


KINDS: dict[str, EvaluationKind] = {}


def register_kind(kind: EvaluationKind) -> None:
    """Register a kind for all commands.

    Raises:
        ValueError: a kind of this type already exists.
    """
    if kind.evaluator_type in KINDS:
        raise ValueError(f"a kind of evaluation {kind.evaluator_type!r} already exists; choose another name")
    KINDS[kind.evaluator_type] = kind


def kind_of(dataset_name: str) -> EvaluationKind:
    """Return the kind that the metadata ``evaluator_type`` of a data set names.

    Raises:
        ValueError: there is no such kind.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in KINDS:
        raise ValueError(
            f"data set {dataset_name} asks for an evaluator of type {evaluator_type!r}; the known types are"
            f" {', '.join(sorted(KINDS))}"
        )
    return KINDS[evaluator_type]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f".{_module.name}", __name__)
