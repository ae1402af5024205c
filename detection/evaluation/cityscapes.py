"""Cityscapes' instance AP, by its official script."""

import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from detectron2.evaluation import CityscapesInstanceEvaluator as Detectron2CityscapesInstanceEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from tabulate import tabulate

from mocodet.common.files import atomic_open

from ..data.packages import require_packages
from .coco_results import RESULTS
from .official import OldNumpy, replaced

logger = logging.getLogger(__name__)

SCRIPT = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"


class CityscapesInstanceEvaluator(Detectron2CityscapesInstanceEvaluator):
    """detectron2's Cityscapes evaluator, whose script runs on today's numpy; it also tells each class's AP.

    The numbers are those of cityscapesScripts: AP is the mean over the classes with ground truth and the IoU thresholds
    0.5 to 0.95, AP50 that at 0.5, of masks. It has no AP75. Detections go from process to process through files, so all
    processes must be on one machine.

    Args:
        dataset_name: a data set whose metadata has ``thing_classes`` and ``gt_dir``.
        output_dir: where to leave ``coco_instances_results.json``, for which images are named by their files; None
            leaves nothing.

    Raises:
        ValueError: cityscapesScripts is not installed.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        require_packages(dataset_name, "cityscapes_instance")
        self._script = import_module(SCRIPT)
        super().__init__(dataset_name)
        self._output_dir = output_dir

    def reset(self) -> None:
        """Forget the detections so far."""
        super().reset()
        self._found: list[dict[str, Any]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Note the instances of each image, where the script will look for them."""
        super().process(inputs, outputs)
        if self._output_dir:
            for record, output in zip(inputs, outputs, strict=True):
                self._found += instances_to_coco_json(output["instances"].to(self._cpu_device), record["image_id"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return ``{"segm": {"AP", "AP50", "AP-<class>", "AP50-<class>"}}`` in per cent on the main process.

        Raises:
            RuntimeError: the script finds fault with the files; its complaint is on the standard output.
        """
        gathered = comm.gather(self._found, dst=0)
        script, averages = self._script, {}
        names = {
            "np": OldNumpy(),
            "computeAverages": _noting_results(script.computeAverages, averages),
            "writeDict2JSON": _without_matches(script.writeDict2JSON),
        }
        with replaced(script, **names), replaced(script.args, quiet=True):
            try:
                results = super().evaluate()
            except SystemExit as error:
                raise RuntimeError(
                    f"cityscapesScripts gave up on {self._metadata.gt_dir}; what it complained of is printed above"
                ) from error
        if not comm.is_main_process():
            return None
        if self._output_dir:
            with atomic_open(Path(self._output_dir, RESULTS), "w") as handle:
                json.dump(list(itertools.chain.from_iterable(gathered)), handle)
        for name, values in averages["classes"].items():
            results["segm"][f"AP-{name}"] = 100 * float(values["ap"])
            results["segm"][f"AP50-{name}"] = 100 * float(values["ap50%"])
        self._log_table(results["segm"])
        return results

    def _log_table(self, metrics: dict[str, float]) -> None:
        rows = [(name, metrics[f"AP50-{name}"], metrics[f"AP-{name}"]) for name in self._metadata.thing_classes]
        rows.append(("mean", metrics["AP50"], metrics["AP"]))
        logger.info(
            "Cityscapes, per class (nan: no ground truth):\n"
            + tabulate(rows, headers=["class", "AP50", "AP"], floatfmt=".2f", tablefmt="pipe")
        )


def _noting_results(compute: Callable[..., dict[str, Any]], notes: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Wrap a function so that ``notes`` receives what it returns."""

    def wrapped(*args: Any) -> dict[str, Any]:
        found = compute(*args)
        notes.update(found)
        return found

    return wrapped


def _without_matches(write: Callable[[object, str], None]) -> Callable[[object, str], None]:
    """Wrap the script's way of writing files: it would leave ``matches.json`` in the working directory."""
    return lambda content, path: None if path == "matches.json" else write(content, path)
