"""Weighted nearest neighbours in feature space (Wu et al., CVPR 2018, section 3.4): as a tool and during a run."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.checkpoint import errors_about
from mocodet.common.progress import progress

from ..data.folders import warn_of_passed_over
from ..data.labelled import check_same_classes, read_class_folders
from .accuracy import Evaluator, count_right, percent
from .features import FeatureSettings, extract_features, share_buffers

# Rows of queries and of the bank that are compared at a time, and lists of neighbours that the main process merges.
CHUNK = 2048

# Similarities (float32) in falling order, and the classes of the neighbours that have them (int64): both M x k.
Neighbours = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def knn_accuracy(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    labels: torch.Tensor,
    ks: Sequence[int],
    temperature: float,
    device: torch.device | str = "cpu",
) -> list[dict[str, float]]:
    """Let the nearest neighbours of each query vote for their classes with weight ``exp(similarity / temperature)``.

    All processes must call, each with its part of the bank and of the queries, which may be empty: each searches its
    part of the bank, and the main process merges what they found.

    Args:
        bank: N x D. queries: M x D. Both on the CPU; they need not be normalised.
        bank_labels: N, int64. labels: M, int64.
        ks: numbers of neighbours, from 1 to the entries of all banks.
        temperature: tau, 0.07 in the paper.
        device: where cosine similarities are computed.

    Returns:
        for each of ``ks``: ``"top1"`` and ``"top5"``, in percent of all queries: how many queries' classes have the
        highest sum, and one of the five highest. A class without a vote is never right; otherwise see `count_right`.
    """
    counts = comm.all_gather(len(queries))
    rounds = range(0, max(counts), max(1, CHUNK // len(counts) ** 2))
    right = torch.zeros(len(ks), 2, dtype=torch.int64)
    for begin in progress(rounds, "nearest neighbours, chunk", len(rounds)) if comm.is_main_process() else rounds:
        # Copies, since a slice would be sent with all that it is a slice of.
        mine = [rows[begin : begin + rounds.step].clone() for rows in (queries, labels)]
        parts = [part for part in comm.all_gather(mine) if len(part[1])]
        asked, truth = (torch.cat(rows) for rows in zip(*parts, strict=True))
        found = comm.gather(nearest(bank, bank_labels, asked, max(ks), device))
        if found:  # in the main process only
            similarities, voters = _merge(found, max(ks))
            for row, k in zip(right, ks, strict=True):
                row += _count_votes(similarities[:, :k], voters[:, :k], truth, temperature)
    return [percent(row, sum(counts)) for row in comm.all_gather(right)[0]]


def nearest(
    bank: torch.Tensor, bank_labels: torch.Tensor, queries: torch.Tensor, k: int, device: torch.device | str = "cpu"
) -> Neighbours:
    """Find the ``k`` entries of ``bank`` (or all, where it has fewer) that are nearest to each query.

    Which ones of several equally similar entries are found is not defined. For the arguments see `knn_accuracy`.
    """
    queries = F.normalize(queries.to(device).float())
    best: Neighbours = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for entries, labels in zip(bank.split(CHUNK), bank_labels.split(CHUNK), strict=True) if len(bank) else ():
        similarities = queries @ F.normalize(entries.to(device).float()).T  # M x n
        found, places = similarities.topk(min(k, len(entries)), dim=1)
        best = _merge([best, (found.cpu(), labels[places.cpu()])], k)
    return best


def _merge(lists: Sequence[Neighbours], k: int) -> Neighbours:
    """Return the ``k`` nearest of several lists of neighbours of the same queries."""
    similarities, labels = (torch.cat(rows, dim=1) for rows in zip(*lists, strict=True))
    similarities, order = similarities.topk(min(k, similarities.shape[1]), dim=1)
    return similarities, labels.gather(1, order)


def _count_votes(
    similarities: torch.Tensor, voters: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    # Relative to the nearest neighbour's, which changes no order and cannot overflow.
    weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
    classes = int(max(voters.max(), labels.max())) + 1
    votes = torch.zeros(len(labels), classes, dtype=torch.float64).scatter_add_(1, voters, weights)  # M x C
    voted = votes.gather(1, labels[:, None])[:, 0] > 0
    return count_right(votes[voted], labels[voted])


class KNNMonitor(Evaluator):
    """Logs ``knn_top1`` and ``knn_top5``, in percent, of the encoder in training, on a labelled split.

    It looks at a copy of ``trainer.method.encoder_to_transfer`` without its head, in evaluation mode and with the main
    process's batch-norm statistics, which are those of the checkpoint. The processes share the work: each one makes the
    features of its part of both splits.

    Args:
        cfg: of the run.
        iterations_per_epoch: of the training that is monitored.

    Raises:
        FileNotFoundError, ValueError: see `read_class_folders` and `check_same_classes`; fewer reference images than
            ``KNN.K``.
    """

    prefix = "knn_"

    def __init__(self, cfg: CfgNode, iterations_per_epoch: int) -> None:
        self.cfg, knn = cfg, cfg.KNN
        with errors_about(f"KNN.TRAIN_ROOT {knn.TRAIN_ROOT}, KNN.VAL_ROOT {knn.VAL_ROOT}"):
            self.bank, self.queries = read_class_folders(knn.TRAIN_ROOT), read_class_folders(knn.VAL_ROOT)
            check_same_classes(self.bank.classes, self.queries.classes)
        for split, key in ((self.bank, "TRAIN_ROOT"), (self.queries, "VAL_ROOT")):
            warn_of_passed_over(split.images, f"KNN.{key} {knn[key]}")
        if len(self.bank.labels) < knn.K:
            raise ValueError(
                f"KNN.K is {knn.K}, but KNN.TRAIN_ROOT {knn.TRAIN_ROOT} has {len(self.bank.labels)} images; lower KNN.K"
            )
        self.period = knn.PERIOD or iterations_per_epoch
        self.what = f"{knn.K}-NN"
        self.images = len(self.queries.labels)

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
            extract_features(backbone, split, settings, range(len(split.labels))[mine])
            for split in (self.bank, self.queries)
        )
        labels, truth = self.bank.labels[mine], self.queries.labels[mine]
        return knn_accuracy(bank, labels, queries, truth, [self.cfg.KNN.K], self.cfg.KNN.TEMPERATURE, device)[0]
