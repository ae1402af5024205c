"""LVIS's metrics, by its official script."""

from collections import OrderedDict
from importlib import import_module

from detectron2.evaluation import LVISEvaluator as Detectron2LVISEvaluator
from detectron2.utils import comm

from ..data.packages import require_packages
from .official import OldNumpy, replaced

SCRIPT = "lvis.eval"
UNDEFINED = -100.0  # in per cent: what the script gives for a group of categories without ground truth


class LVISEvaluator(Detectron2LVISEvaluator):
    """detectron2's LVIS evaluator, whose script runs on today's numpy and whose undefined metrics are nan.

    AP, AP50 and AP75, APr, APc and APf of rare, common and frequent categories, and APs, APm and APl by area, each of
    boxes and of masks, in per cent (Gupta et al., LVIS, CVPR 2019, section 3). A detection counts only in images for
    which LVIS knows whether its category is there.

    Args:
        dataset_name: a data set whose metadata has ``json_file``, in LVIS's format.
        tasks: ``"bbox"``, ``"segm"``.
        output_dir: where to leave ``lvis_instances_results.json``; None leaves nothing.

    Raises:
        ValueError: LVIS's script is not installed.
    """

    def __init__(self, dataset_name: str, tasks: tuple[str, ...], output_dir: str | None = None):
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
