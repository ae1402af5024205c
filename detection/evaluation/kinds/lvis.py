"""LVIS's metrics, computed by its official script."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.utils import comm

from ..coco_results import choose_tasks, read_json, read_results, read_things
from ..official import OLD_NUMPY
from . import KINDS, EvaluationKind, Results, register_kind

SCRIPT = "lvis.eval"
TASKS = ("bbox", "segm")
RESULTS = "lvis_instances_results.json"
UNDEFINED = -100.0  # per cent; the script's value for a group of categories without ground truth


class LVISEvaluator(Detectron2LVISEvaluator):
    """detectron2's LVIS evaluator with support for current NumPy, and with nan for undefined metrics.

    The metrics are AP, AP50 and AP75; APr, APc and APf for rare, common and frequent categories; and APs, APm and APl
    by object area. Each is computed for boxes and for masks, in per cent (Gupta et al., LVIS, CVPR 2019, section 3). A
    detection counts only in images for which LVIS specifies whether its category is present.

    Args:
        dataset_name: a data set whose metadata has ``json_file``, in LVIS's format.
        tasks: ``"bbox"`` and ``"segm"``; None selects those that the predictions contain.
        output_dir: folder for ``lvis_instances_results.json``. If None, nothing is written.

    Raises:
        ValueError: the lvis package is not installed.
    """

    def __init__(self, dataset_name: str, tasks: Sequence[str] | None, output_dir: str | None = None):
        KINDS["lvis"].check_packages(dataset_name)
        self._script = import_module(SCRIPT)
        super().__init__(dataset_name, tasks=tasks, output_dir=output_dir)

    def evaluate(self) -> Results | None:
        """Return ``{task: {metric: value}}`` on the main process, with nan if there is no ground truth."""
        with mock.patch.object(self._script, "np", OLD_NUMPY):
            results = super().evaluate()
        if not comm.is_main_process():
            return None
        for metrics in results.values():
            metrics.update({metric: math.nan for metric, value in metrics.items() if value == UNDEFINED})
        return results

    def evaluate_saved(self, path: str | Path) -> tuple[Results, int]:
        """Evaluate ``lvis_instances_results.json``; see `EvaluationKind`.

        Raises:
            ValueError: also if LVIS's metrics do not support a task.
        """
        results = read_results(path, _in_order(self._lvis_api.dataset), [RESULTS])
        self._tasks: Sequence[str] | None = choose_tasks(path, results, self._tasks, TASKS)
        # `evaluate` converts detectron2's indices back to the data set's category ids.
        indices = self._metadata.get("thing_dataset_id_to_contiguous_id")
        for result in results:
            result["category_id"] = indices[result["category_id"]] if indices else result["category_id"] - 1
        self._predictions = [{"instances": results}]
        return self.evaluate() or OrderedDict(), len(results)


def _in_order(dataset: dict[str, Any]) -> dict[str, Any]:
    """Sort the categories by id, the order in which detectron2 numbers the classes."""
    return {**dataset, "categories": sorted(dataset["categories"], key=lambda category: category["id"])}


register_kind(
    EvaluationKind(
        "lvis",
        build=lambda cfg, name, tasks, output: LVISEvaluator(name, tasks, output),
        evaluate_saved=LVISEvaluator.evaluate_saved,
        read=lambda path, metadata, records: read_things(path, _in_order(read_json(metadata.json_file)), [RESULTS]),
        tasks=TASKS,
        packages=("lvis",),
        # Without dependencies, because one of them, opencv-python, would overwrite opencv-python-headless.
        install="pip install --no-deps lvis",
    )
)
