"""Defines how data sets of each ``evaluator_type`` are evaluated, with one `EvaluationKind` per type in this package.

To add a kind, add a module that calls `register_kind`. A custom kind can be in any module, whose import registers it.
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

Results = OrderedDict[str, dict[str, float]]  # {task: {metric: value}}


@dataclass(frozen=True)
class EvaluationKind:
    """How data sets of one ``evaluator_type`` are checked, evaluated and drawn.

    Attributes:
        evaluator_type: the type in the metadata of the data sets.
        build: (config, data set, tasks, output) -> the evaluator. Tasks are among ``bbox``, ``segm`` and ``keypoints``;
            None selects those that the predictions contain. Predictions are written to the folder ``output``, unless it
            is None.
        check: (config, data set): checks, before a run that evaluates on the data set, that its metrics can be
            computed. Raises FileNotFoundError or ValueError.
        check_files: (data set): checks, before any run, the files other than the folders in the metadata. Not called
            for data sets from ``MOCO.DATASETS``, which are read completely. Raises FileNotFoundError or ValueError.
        evaluate_saved: (evaluator, file or folder) -> the results of saved predictions, instead of those that the
            evaluator has processed, and the number of predictions. None if runs do not save predictions. Raises
            FileNotFoundError, or ValueError if the predictions are malformed, belong to another data set, or lack what
            a task requires.
        matches: (evaluator) -> which detections were correct in its last evaluation, by task, on the main process. None
            if the metrics do not match detections, for example if they count pixels.
        read: (file or folder, metadata, records) -> saved predictions as `Thing` objects for drawing, by the keys of
            the images (`image_key`). None if runs do not save predictions. Raises the same errors as
            ``evaluate_saved``.
        records: (data set) -> its records, with the model's class indices as categories. Called after the evaluator has
            been built.
        tasks: the choices of ``mocodet evaluate --tasks``.
        has_label_images: whether the ground truth consists only of label images, without objects.
        packages: optional modules that are required to read or evaluate the data sets.
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
        """Check that the packages required for a data set of this kind are installed.

        Raises:
            ValueError: a package is missing; the message includes the command that installs it.
        """
        missing = [module for module in self.packages if importlib.util.find_spec(module) is None]
        if missing:
            raise ValueError(
                f"data set {dataset_name} requires the packages {' and '.join(missing)}, which are not installed."
                f" Install them with:  {self.install}"
            )


KINDS: dict[str, EvaluationKind] = {}


def register_kind(kind: EvaluationKind) -> None:
    """Register a kind for all commands.

    Raises:
        ValueError: a kind of this type is already registered.
    """
    if kind.evaluator_type in KINDS:
        raise ValueError(f"the evaluation kind {kind.evaluator_type!r} is already registered; choose another name")
    KINDS[kind.evaluator_type] = kind


def kind_of(dataset_name: str) -> EvaluationKind:
    """Return the kind for the ``evaluator_type`` in a data set's metadata.

    Raises:
        ValueError: no kind of that type is registered.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in KINDS:
        raise ValueError(
            f"data set {dataset_name} has the evaluator type {evaluator_type!r}; the supported types are"
            f" {', '.join(sorted(KINDS))}"
        )
    return KINDS[evaluator_type]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f".{_module.name}", __name__)
