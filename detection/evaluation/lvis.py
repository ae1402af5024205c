"""LVIS's metrics, by its official script."""

from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.utils import comm

from ..data.packages import require_packages
from .coco_results import choose_tasks, read_results
from .official import OldNumpy, replaced

SCRIPT = "lvis.eval"
TASKS = ("bbox", "segm")
RESULTS = "lvis_instances_results.json"
UNDEFINED = -100.0  # in per cent: what the script gives for a group of categories without ground truth


class LVISEvaluator(Detectron2LVISEvaluator):
    """detectron2's LVIS evaluator, whose script runs on today's numpy and whose undefined metrics are nan.

    AP, AP50 and AP75, APr, APc and APf of rare, common and frequent categories, and APs, APm and APl by area, each of
    boxes and of masks, in per cent (Gupta et al., LVIS, CVPR 2019, section 3). A detection counts only in images for
    which LVIS knows whether its category is there.

    Args:
        dataset_name: a data set whose metadata has ``json_file``, in LVIS's format.
        tasks: ``"bbox"``, ``"segm"``; None: those that the predictions have.
        output_dir: where to leave ``lvis_instances_results.json``; None leaves nothing.

    Raises:
        ValueError: LVIS's script is not installed.
    """

    def __init__(self, dataset_name: str, tasks: tuple[str, ...] | None, output_dir: str | None = None):
        require_packages(dataset_name, "lvis")
        self._script = import_module(SCRIPT)
        super().__init__(dataset_name, tasks=tasks, output_dir=output_dir)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return ``{task: {metric: value}}`` on the main process; nan where there is no ground truth."""
        with replaced(self._script, np=OldNumpy()):
            results = super().evaluate()
        if not comm.is_main_process():
            return None
        nan = float("nan")
        return OrderedDict(
            (task, {metric: nan if value == UNDEFINED else value for metric, value in metrics.items()})
            for task, metrics in results.items()
        )

    def evaluate_saved(self, path: str | Path) -> tuple[Mapping[str, Mapping[str, float]], int]:
        """Evaluate what a run has left instead of what was processed: (results, number of predictions).

        Args:
            path: ``lvis_instances_results.json``, or the folder that holds it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the predictions are malformed or of another data set, they lack what a task needs, or a task
                is not of LVIS's metrics.
        """
        results = read_results(Path(path, RESULTS) if Path(path).is_dir() else path, self._lvis_api.dataset)
        self._tasks = choose_tasks(path, results, self._tasks, TASKS)
        # `evaluate` makes the data set's category ids of detectron2's indices again.
        indices = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        instances = [
            {**result, "category_id": indices[result["category_id"]] if indices else result["category_id"] - 1}
            for result in results
        ]
        self._predictions = [{"instances": instances}]
        return self.evaluate(), len(results)
