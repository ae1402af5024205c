"""Pascal VOC's AP, with the numbers of each class."""

import logging
import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval
from detectron2.utils import comm
from tabulate import tabulate

from ..data.voc import read_split

logger = logging.getLogger(__name__)

IOU_THRESHOLDS = range(50, 100, 5)  # per cent


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """detectron2's Pascal VOC evaluator that also tells each class's AP and ground truth and keeps the detections.

    AP is the mean over the classes that the split has ground truth for; where all have, the results are detectron2's.
    A class without any is left out and named in a warning: detectron2 counts it as 0 by the 2007 definition and makes
    the mean nan by the 2012 one. Objects marked difficult are no ground truth.

    Args:
        dataset_name: a data set whose metadata has ``dirname``, ``split``, ``year`` and ``thing_classes``.
        output_dir: where to leave one file of detections per class; None leaves none.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        super().__init__(dataset_name)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = output_dir

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return ``{"bbox": {"AP", "AP50", "AP75", "AP-<class>", "AP50-<class>"}}`` in per cent on the main process.

        Raises:
            RuntimeError: the split has no ground truth at all.
        """
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        images = read_split(self._metadata.dirname, self._metadata.split)
        ground_truth = self._count_ground_truth(images)
        with self._files(images, gathered) as (detections, image_set):
            aps = {
                name: [self._average_precision(name, detections, image_set, iou) for iou in IOU_THRESHOLDS]
                for name in self._class_names
                if ground_truth[name]
            }
        return self._summarise(aps, ground_truth)

    def _count_ground_truth(self, images: Sequence[str]) -> Mapping[str, int]:
        counts: dict[str, int] = defaultdict(int)
        for image in images:
            for found in parse_rec(self._anno_file_template.format(image)):
                counts[found["name"]] += not found["difficult"]
        if not any(counts[name] for name in self._class_names):
            raise RuntimeError(f"{self._dataset_name} has no ground truth to evaluate on in its {len(images)} images")
        if absent := [name for name in self._class_names if not counts[name]]:
            logger.warning(f"No ground truth in {self._dataset_name}, so not part of the mean AP: {', '.join(absent)}")
        return counts

    @contextmanager
    def _files(self, images: Sequence[str], gathered: Sequence[Mapping[int, list[str]]]) -> Iterator[tuple[str, str]]:
        """Write the detections and the image list where ``voc_eval`` reads them: (folder, file)."""
        with tempfile.TemporaryDirectory(prefix="voc_eval_") as temporary:
            folder = Path(self._output_dir or temporary)
            folder.mkdir(parents=True, exist_ok=True)
            for index, name in enumerate(self._class_names):
                lines = [line for predictions in gathered for line in predictions.get(index, [])]
                (folder / _file_name(name)).write_text("\n".join(lines), encoding="utf-8")
            image_set = Path(temporary) / "images.list"
            image_set.write_text("\n".join(images), encoding="utf-8")
            yield str(folder), str(image_set)

    def _average_precision(self, class_name: str, detections: str, image_set: str, iou: int) -> float:
        path = str(Path(detections) / _file_name(class_name))
        _, _, ap = voc_eval(
            path.replace("{", "{{").replace("}", "}}"),  # detectron2 formats it with the class's name
            self._anno_file_template,
            image_set,
            class_name,
            ovthresh=iou / 100,
            use_07_metric=self._is_2007,
        )
        return 100 * float(ap)

    def _summarise(
        self, aps: Mapping[str, Sequence[float]], ground_truth: Mapping[str, int]
    ) -> OrderedDict[str, dict[str, float]]:
        table = np.array(list(aps.values()))  # classes x thresholds
        at = {iou: column for column, iou in enumerate(IOU_THRESHOLDS)}
        bbox = {
            "AP": float(table.mean()),
            "AP50": float(table[:, at[50]].mean()),
            "AP75": float(table[:, at[75]].mean()),
        }
        rows = []
        for name, values in aps.items():
            bbox[f"AP-{name}"], bbox[f"AP50-{name}"] = float(np.mean(values)), values[at[50]]
            rows.append((name, ground_truth[name], values[at[50]], float(np.mean(values))))
        logger.info(
            f"Per-class results on {self._dataset_name} ({2007 if self._is_2007 else 2012} metric):\n"
            + tabulate(rows, headers=["class", "objects", "AP50", "AP"], floatfmt=".2f", tablefmt="pipe")
        )
        return OrderedDict(bbox=bbox)


def _file_name(class_name: str) -> str:
    """Name the file of a class's detections; a class may be called ``T-shirt/top``."""
    return quote(class_name, safe=" ") + ".txt"
