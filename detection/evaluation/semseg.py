"""Mean intersection over union of semantic segmentation, with the numbers of each class."""

import logging
from collections import OrderedDict

import numpy as np
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from ..data.semseg import check_same_size, read_labels

logger = logging.getLogger(__name__)


class MeanIoUEvaluator(SemSegEvaluator):
    """detectron2's ``SemSegEvaluator`` that reads labels as indices, checks them and tells each class's numbers.

    IoU of a class is TP / (TP + FP + FN) over the labelled pixels of all images together, as Pascal VOC and Cityscapes
    define it; pixels with the ignored label count nowhere. A class without a labelled pixel is left out of every mean
    and named in a warning, as by detectron2. Boundary IoU, which detectron2 adds and neither data set's protocol has,
    is not computed.

    Args:
        dataset_name: a data set whose metadata has ``stuff_classes`` and ``ignore_label``.
        output_dir: where to leave ``sem_seg_predictions.json`` (run-length encoded, as COCO's); None leaves nothing.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        super().__init__(dataset_name, output_dir=output_dir)
        self._compute_boundary_iou = False

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the pixels of each image by predicted and true class.

        Args:
            inputs: records with ``file_name``.
            outputs: for each, ``sem_seg``: scores, classes x H x W, in the size of the labels.

        Raises:
            ValueError: the labels cannot be read, hold a value that is no class, or are of another size.
        """
        for record, output in zip(inputs, outputs, strict=True):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy()  # H x W
            file = self.input_file_to_gt_file[record["file_name"]]
            truth = read_labels(file, self._num_classes, self._ignore_label).astype(np.int64)
            check_same_size(file, truth.shape, record["file_name"], predicted.shape)
            truth[truth == self._ignore_label] = self._num_classes
            side = self._num_classes + 1
            counts = np.bincount((side * predicted + truth).ravel(), minlength=side * side)
            self._conf_matrix += counts.reshape(side, side)  # predicted x true; the last true class is ignored
            if self._output_dir:
                self._predictions.extend(self.encode_json_sem_seg(predicted, record["file_name"]))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return ``{"sem_seg": {...}}`` in per cent on the main process.

        Its metrics are ``mIoU``; ``fwIoU``, weighted by the classes' pixels; ``pACC``, the fraction of pixels that are
        right; ``mACC``, the mean of the classes' fractions; and ``IoU-<class>`` and ``ACC-<class>``.

        Raises:
            RuntimeError: no pixel is labelled.
        """
        with np.errstate(invalid="ignore"):  # 0 / 0, without a labelled pixel, is refused below
            results = super().evaluate()
        if not comm.is_main_process():
            return None
        metrics = results["sem_seg"]
        if np.isnan(metrics["pACC"]):
            raise RuntimeError(f"{self._dataset_name} has no labelled pixel to evaluate on")
        absent = [name for name in self._class_names if np.isnan(metrics[f"IoU-{name}"])]
        if absent:
            logger.warning(f"No ground truth in {self._dataset_name}, so not part of the mean IoU: {', '.join(absent)}")
        left_out = {f"{metric}-{name}" for metric in ("IoU", "ACC") for name in absent}
        metrics = {name: float(value) for name, value in metrics.items() if name not in left_out}
        self._log_table(metrics)
        return OrderedDict(sem_seg=metrics)

    def _log_table(self, metrics: dict[str, float]) -> None:
        true_pixels = self._conf_matrix[:-1, :-1].sum(axis=0)
        rows = [
            (name, pixels, metrics.get(f"IoU-{name}"), metrics.get(f"ACC-{name}"))
            for name, pixels in zip(self._class_names, true_pixels.tolist(), strict=True)
        ]
        rows.append(("mean", sum(row[1] for row in rows), metrics["mIoU"], metrics["mACC"]))
        headers = ("class", "pixels", "IoU", "accuracy")
        logger.info(
            f"{self._dataset_name}, per class:\n"
            + tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f", missingval="–")
        )
