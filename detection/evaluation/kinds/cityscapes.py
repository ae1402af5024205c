"""Cityscapes' instance AP, computed by its official script, and checks of its files, which are paired by name."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator as Detectron2CityscapesInstanceEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from mocodet.common.checks.cityscapes import IMAGE_ENDING
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from ..coco_results import RESULTS, read_things
from ..complete import format_results
from ..official import OLD_NUMPY
from ..things import Thing
from . import KINDS, EvaluationKind, Results, register_kind

logger = logging.getLogger(__name__)

SCRIPT = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
ANNOTATIONS = ("_gtFine_polygons.json", "_gtFine_instanceIds.png", "_gtFine_labelIds.png")


class CityscapesInstanceEvaluator(Detectron2CityscapesInstanceEvaluator):
    """detectron2's Cityscapes evaluator with support for current NumPy, which also reports the AP of each class.

    The metrics are those of cityscapesScripts, for masks: AP is the mean over the classes with ground truth and the IoU
    thresholds 0.5 to 0.95, and AP50 is the mean at 0.5. There is no AP75. Processes exchange detections through files,
    so all of them must be on one machine.

    Args:
        dataset_name: a data set whose metadata has ``thing_classes`` and ``gt_dir``.
        output_dir: folder for ``coco_instances_results.json``, which identifies images by file name. If None, nothing
            is written.

    Raises:
        ValueError: cityscapesScripts is not installed.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        KINDS["cityscapes_instance"].check_packages(dataset_name)
        self._script = import_module(SCRIPT)
        super().__init__(dataset_name)
        self._output_dir = output_dir

    def reset(self) -> None:
        """Clear the recorded detections."""
        super().reset()
        self._found: list[dict[str, Any]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write the instances of each image to the folder that the script reads."""
        super().process(inputs, outputs)
        if self._output_dir:
            for record, output in zip(inputs, outputs, strict=True):
                self._found += instances_to_coco_json(output["instances"].to(self._cpu_device), record["image_id"])

    def evaluate(self) -> Results | None:
        """Return ``{"segm": {"AP", "AP50", "AP-<class>", "AP50-<class>"}}`` in per cent on the main process.

        Raises:
            RuntimeError: the script reports an error in the files and prints it to standard output.
        """
        gathered = comm.gather(self._found, dst=0)
        compute, averages = self._script.computeAverages, {}

        def compute_averages(*args: Any) -> dict[str, Any]:
            averages.update(compute(*args))  # detectron2 returns only the means
            return averages

        replacements: dict[str, Any] = {
            "np": OLD_NUMPY,
            "computeAverages": compute_averages,
            "writeDict2JSON": lambda content, path: None,  # would write matches.json to the working directory
        }
        with mock.patch.multiple(self._script, **replacements), mock.patch.object(self._script.args, "quiet", True):
            try:
                results = super().evaluate()
            except SystemExit as error:
                raise RuntimeError(
                    f"cityscapesScripts failed on {self._metadata.gt_dir}; its error message is printed above"
                ) from error
        if not comm.is_main_process():
            return None
        if self._output_dir:
            with atomic_open(Path(self._output_dir, RESULTS), "w") as handle:
                json.dump(list(itertools.chain.from_iterable(gathered)), handle)
        metrics = results["segm"]
        for name, values in averages["classes"].items():
            metrics[f"AP-{name}"], metrics[f"AP50-{name}"] = 100 * float(values["ap"]), 100 * float(values["ap50%"])
        logger.info(f"Results on Cityscapes (nan means no ground truth), {format_results(results)}")
        return results


def check_can_be_evaluated(cfg: CfgNode, dataset_name: str) -> None:
    """Check that the model predicts masks and that all processes run on one machine.

    Raises:
        ValueError: the model does not predict masks, or the processes run on multiple machines.
    """
    if not cfg.MODEL.MASK_ON:
        raise ValueError(f"data set {dataset_name} is evaluated only with masks; set MODEL.MASK_ON True")
    if comm.get_local_size() != comm.get_world_size():
        raise ValueError(
            f"data set {dataset_name} is evaluated through files that all processes share, so its evaluation must run"
            f" on one machine, but this run uses {comm.get_world_size() // comm.get_local_size()}; set DATASETS.TEST ()"
            " and evaluate with --eval-only afterwards"
        )


def check_cityscapes_files(name: str, endings: Sequence[str]) -> None:
    """Check that every image in ``<image_dir>/<city>/`` has annotations in ``<gt_dir>/<city>/``, and vice versa.

    Args:
        name: a data set whose metadata has ``image_dir`` and ``gt_dir``, such as ``leftImg8bit/train`` and
            ``gtFine/train``.
        endings: the endings of an image's annotation files, whose names begin like the name of the image.

    Raises:
        FileNotFoundError: there are no images, images without annotations, or annotations without images.
        ValueError: a folder of images contains other files.
    """
    image_dir, gt_dir = MetadataCatalog.get(name).image_dir, MetadataCatalog.get(name).gt_dir
    images = sorted(path for path in Path(image_dir).glob("*/*") if not path.name.startswith("."))
    if strange := [str(path) for path in images if not path.name.endswith(IMAGE_ENDING)]:
        raise ValueError(
            f"data set {name}: {image_dir} must contain only one folder for each city, with images that end in"
            f" {IMAGE_ENDING}; found {first_few(strange, 3)}"
        )
    if not images:
        raise FileNotFoundError(
            f"data set {name}: no images found; expected files such as {image_dir}/aachen/*{IMAGE_ENDING}"
        )
    stems = {str(path.relative_to(image_dir)).removesuffix(IMAGE_ENDING) for path in images}
    for ending in endings:
        found = {str(path.relative_to(gt_dir)).removesuffix(ending) for path in Path(gt_dir).glob(f"*/*{ending}")}
        if missing := sorted(stems - found):
            how = "; create them with  mocodet prepare-data cityscapes" if "labelTrainIds" in ending else ""
            raise FileNotFoundError(
                f"data set {name}: {len(missing)} of the {len(stems)} images have no {ending} in {gt_dir}:"
                f" {first_few(missing, 3)}{how}"
            )
        if spare := sorted(found - stems):
            raise FileNotFoundError(
                f"data set {name}: {len(spare)} annotations {ending} in {gt_dir} have no image in {image_dir}:"
                f" {first_few(spare, 3)}"
            )


def _read(path: Path, metadata: Metadata, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Thing]]:
    images = [{"id": record["image_id"], "height": record["height"], "width": record["width"]} for record in records]
    categories = [{"id": index} for index in range(len(metadata.thing_classes))]
    return read_things(path, {"images": images, "categories": categories})


register_kind(
    EvaluationKind(
        "cityscapes_instance",
        build=lambda cfg, name, tasks, output: CityscapesInstanceEvaluator(name, output),
        check=check_can_be_evaluated,
        check_files=lambda name: check_cityscapes_files(name, ANNOTATIONS),
        read=_read,
        packages=("cityscapesscripts", "shapely"),
        install="pip install cityscapesscripts shapely",
    )
)
