"""Builds the evaluators for a run's config and locates their predictions in ``<OUTPUT_DIR>/inference/``."""

from pathlib import Path

from detectron2.config import CfgNode

from .coco_results import predicted_tasks
from .keep import KeepingEvaluator
from .kinds import kind_of


def build_evaluator(cfg: CfgNode, dataset_name: str) -> KeepingEvaluator:
    """Build the evaluator for the ``evaluator_type`` in the data set's metadata.

    Predictions are written to ``<OUTPUT_DIR>/inference/<dataset_name>/``. The files that a study requires are written
    to ``OUTPUT_DIR``, or to the folder of the predictions if the run is evaluated on multiple data sets.

    Raises:
        ValueError: no evaluator of that type is registered.
    """
    output_dir = str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name)
    evaluator = kind_of(dataset_name).build(cfg, dataset_name, predicted_tasks(cfg), output_dir)
    return KeepingEvaluator(evaluator, dataset_name, output_dir if len(cfg.DATASETS.TEST) > 1 else cfg.OUTPUT_DIR)


def predictions_folder(path: str | Path, dataset_name: str) -> Path:
    """Return the folder of the predictions on a data set: ``path``, or a subfolder if that is a run's ``OUTPUT_DIR``.

    Raises:
        FileNotFoundError: ``path`` is the ``OUTPUT_DIR`` of a run that has predictions only on other data sets.
    """
    inference = Path(path, "inference")
    if not inference.is_dir():
        return Path(path)
    inside = inference / dataset_name
    if not inside.is_dir():
        found = ", ".join(sorted(folder.name for folder in inference.iterdir())) or "no data set"
        raise FileNotFoundError(
            f"the run in {path} has predictions on {found}, but not on {dataset_name}; if the images are the same,"
            f" specify the folder of the predictions, such as {inference / '<data set>'}"
        )
    return inside
