"""A hook that evaluates the encoder with nearest neighbours during training."""

import copy
from pathlib import Path

from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.checkpoint import errors_about
from mocodet.common.files import write_json

from ..data.crops import read_crops
from ..data.exclusion import EVERYTHING, Exclusion, read_exclusion
from ..data.folders import LabelledImages, warn_of_passed_over
from ..data.labelled import check_same_classes, read_class_folders
from .accuracy import Evaluator
from .features import FeatureSettings, extract_features, share_buffers
from .knn import knn_accuracy
from .neighbours import SplitPart, fixed_neighbours


class KNNMonitor(Evaluator):
    """Logs ``knn_top1`` and ``knn_top5`` of the current encoder in percent, measured on a labelled split.

    It evaluates a copy of ``trainer.method.encoder_to_transfer`` without its head, in evaluation mode and with the
    batch-norm statistics of the main process, which are those saved in checkpoints. The work is distributed: each
    process computes the features of its part of both splits. The nearest images of a few queries (`fixed_neighbours`)
    are saved in ``OUTPUT_DIR/neighbours/``, with one file for each evaluation and the same numbering as checkpoints.

    Args:
        cfg: config of the run.
        iterations_per_epoch: number of iterations per epoch in the run.

    Raises:
        FileNotFoundError, ValueError: there are fewer reference images than ``KNN.K``; see also `read_class_folders`,
            `check_same_classes` and `read_crops`.
    """

    prefix = "knn_"

    def __init__(self, cfg: CfgNode, iterations_per_epoch: int) -> None:
        self.cfg, knn = cfg, cfg.KNN
        if knn.DATASET:
            self.bank, self.queries = read_crops(knn.DATASET[0], "KNN.DATASET")
            neighbours = f"KNN.DATASET contains {len(self.bank.labels)} reference boxes"
        else:
            self.bank, self.queries = self._open_folders()
            neighbours = f"KNN.TRAIN_ROOT {knn.TRAIN_ROOT} contains {len(self.bank.labels)} images"
        for split in (self.bank, self.queries):
            split.images.max_pixels = cfg.DATA.MAX_PIXELS
        if len(self.bank.labels) < knn.K:
            raise ValueError(f"KNN.K is {knn.K}, but {neighbours}; lower KNN.K")
        self.period = knn.PERIOD or iterations_per_epoch
        self.what = f"{knn.K}-NN"
        self.images = len(self.queries.labels)

    def _open_folders(self) -> tuple[LabelledImages, LabelledImages]:
        knn = self.cfg.KNN
        with errors_about(f"KNN.TRAIN_ROOT {knn.TRAIN_ROOT}, KNN.VAL_ROOT {knn.VAL_ROOT}"):
            bank, queries = (read_class_folders(root, self._exclusion(root)) for root in (knn.TRAIN_ROOT, knn.VAL_ROOT))
            check_same_classes(bank.classes, queries.classes)
        for split, key in ((bank, "TRAIN_ROOT"), (queries, "VAL_ROOT")):
            warn_of_passed_over(split.images, f"KNN.{key} {knn[key]}")
        return bank, queries

    def _exclusion(self, root: str) -> Exclusion:
        """Return the files of ``DATA.EXCLUDE`` if the folder is that of the training images."""
        data = self.cfg.DATA
        if Path(root).absolute() != Path(data.ROOT).absolute():
            return EVERYTHING
        return read_exclusion(data.EXCLUDE, data.ROOT, self.cfg.OUTPUT_DIR, resuming=False)

    def measure(self) -> dict[str, float]:
        """See `Evaluator.measure`."""
        device = self.trainer.device
        backbone = copy.deepcopy(self.trainer.method.encoder_to_transfer).eval()
        backbone.fc = nn.Identity()
        share_buffers(backbone)
        size, num_workers = self.cfg.KNN.SIZE or self.cfg.AUGMENTATION.CROP_SIZE, self.cfg.DATA.NUM_WORKERS
        settings = FeatureSettings(size, device=device, num_workers=num_workers, dtype=self.trainer.dtype)
        mine = slice(comm.get_rank(), None, comm.get_world_size())
        bank, queries = (
            SplitPart(split, mine, extract_features(backbone, split, settings, range(len(split.labels))[mine]))
            for split in (self.bank, self.queries)
        )
        self.neighbours = fixed_neighbours(bank, queries, device)
        asked = bank.features, bank.labels, queries.features, queries.labels
        return knn_accuracy(*asked, [self.cfg.KNN.K], self.cfg.KNN.TEMPERATURE, device)[0]

    def evaluate(self, iterations: int) -> dict[str, float]:
        """Call `Evaluator.evaluate` and save the nearest neighbours."""
        found = super().evaluate(iterations)
        if comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR, "neighbours", f"iter_{iterations - 1:07}.json")
            write_json(path, {"iterations": iterations, "queries": self.neighbours})
        return found
