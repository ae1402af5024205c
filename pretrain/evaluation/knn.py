"""Weighted nearest neighbours in feature space (Wu et al., CVPR 2018, section 3.4): as a tool and during a run."""

import copy
import logging
import time
from collections.abc import Sequence

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from ..data.folders import warn_of_passed_over
from ..data.labelled import LabelledFolder, require_same_classes
from .features import FeatureSettings, extract_features, share_buffers

logger = logging.getLogger("mocodet.pretrain")

# Queries and bank entries compared at a time: 2 million similarities, about 100 MB with what sorting them takes.
QUERY_CHUNK = 512
BANK_CHUNK = 4096

# Lists of neighbours that the main process merges at a time: 50 MB of 200 neighbours each.
LISTS_AT_ONCE = 32768

# Similarities of unit vectors whose components are multiples of this are exact in float64; see `nearest_keys`.
GRID = 2.0**-26

# Rows whose norms are computed at a time; no argument, so that norms do not depend on one.
NORMS_AT_ONCE = 4096


@torch.no_grad()
def nearest_keys(
    bank: torch.Tensor,
    queries: torch.Tensor,
    k: int,
    *,
    query_chunk: int = QUERY_CHUNK,
    bank_chunk: int = BANK_CHUNK,
    device: torch.device | str = "cpu",
    places: torch.Tensor | None = None,
) -> torch.Tensor:
    """Find the ``k`` entries of ``bank`` that are nearest to each query by cosine similarity.

    Of equal similarities the one of the smaller place is nearer. The result depends neither on the sizes of the chunks
    nor on the order in which a device sums: components of the unit vectors are rounded to multiples of 2^-26 (a change
    below float32's own error), so that all products and partial sums are multiples of 2^-52 below 2, which float64
    holds exactly. Equal entries are then equally similar, wherever they stand.

    Args:
        bank: N x D. queries: M x D. Both on the CPU; they need not be normalised.
        k: neighbours.
        query_chunk, bank_chunk: rows compared at a time; memory beyond the arguments and the result grows with their
            product, and with D times either.
        device: where similarities are computed.
        places: number of each entry of the bank, N, int64; 0, 1, ... by default.

    Returns:
        M x k, int64, on the CPU, in falling order: similarity and place as `pack` puts them into one number.

    Raises:
        ValueError: the bank has fewer than ``k`` entries, or a ``k`` or chunk below 1.
    """
    for name, value in (("k", k), ("query_chunk", query_chunk), ("bank_chunk", bank_chunk)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if k > len(bank):
        raise ValueError(f"{k} nearest neighbours of {len(bank)} reference images: lower k or add images")
    places = torch.arange(len(bank)) if places is None else places
    bank_norms, query_norms = _norms(bank), _norms(queries)
    found = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    for start in range(0, len(bank), bank_chunk):  # the outer loop: the bank is the larger, and is prepared once
        chunk = slice(start, start + bank_chunk)
        entries = _on_grid(bank[chunk], bank_norms[chunk], device)  # n x D
        before, after = min(k, start), min(k, start + len(entries))
        for begin in range(0, len(queries), query_chunk):
            rows = slice(begin, begin + query_chunk)
            similarities = (_on_grid(queries[rows], query_norms[rows], device) @ entries.T).float()  # m x n
            keys = torch.cat([found[rows, :before], pack(similarities, places[chunk].to(device))], dim=1)
            found[rows, :after] = keys.topk(after, dim=1).values
    return found.cpu()


def _norms(features: torch.Tensor) -> torch.Tensor:
    """Return the length of each row, float64, on the CPU."""
    return torch.cat([part.cpu().double().norm(dim=1) for part in features.split(NORMS_AT_ONCE)]).clamp_min(1e-12)


def _on_grid(features: torch.Tensor, norms: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return unit vectors, n x D, float64, of components that are multiples of `GRID`."""
    return features.to(device).double().div_(norms.to(device)[:, None]).div_(GRID).round_().mul_(GRID)


def pack(similarities: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Make one int64 of a similarity (float32, ... x n) and a place (int64, n, below 2^32), ordered as the pair is.

    Larger is nearer: the upper half is the similarity's bits, made to rise with its value; the lower half falls with
    the place. No two are equal, which is what makes a selection of the largest unambiguous.
    """
    bits = (similarities + 0.0).view(torch.int32)  # the sum turns -0.0 into 0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising.long() << 32) + (0xFFFFFFFF - places)


def unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return similarities (float32) and places (int64) of what `pack` made."""
    rising = (keys >> 32).int()
    bits = torch.where(rising < 0, rising ^ 0x7FFFFFFF, rising)
    return bits.view(torch.float32), 0xFFFFFFFF - (keys & 0xFFFFFFFF)


def vote(
    keys: torch.Tensor, bank_labels: torch.Tensor, query_labels: torch.Tensor, temperature: float = 0.07
) -> dict[str, float]:
    """Let the neighbours of each query vote with weight ``exp(similarity / temperature)`` for their classes.

    Args:
        keys: of `nearest_keys`, M x k; the first columns of more neighbours are as good.
        bank_labels: class of each place, int64. query_labels: M.
        temperature: tau, 0.07 in the paper.

    Returns:
        ``"top1"`` and ``"top5"``, in percent: how many queries' classes have the highest sum, and one of the five
        highest. Of equal sums the class of the smaller number is the higher; a class without a vote is never right.

    Raises:
        ValueError: no query, or a temperature that is not positive.
    """
    if not len(keys):
        raise ValueError("there is no image to classify")
    if temperature <= 0:
        raise ValueError(f"the temperature is {temperature}; expected a positive number")
    return _percent(count_right(keys, bank_labels, query_labels, temperature), len(keys))


def count_right(
    keys: torch.Tensor, bank_labels: torch.Tensor, query_labels: torch.Tensor, temperature: float
) -> tuple[int, int]:
    """Return how many queries' classes have the highest sum of votes, and one of the five highest; see `vote`."""
    classes = int(bank_labels.max()) + 1
    if len(query_labels):
        classes = max(classes, int(query_labels.max()) + 1)
    top1 = top5 = 0
    for chunk, truth in zip(keys.split(1024), query_labels.split(1024), strict=True):
        similarities, places = unpack(chunk)
        # Relative to the nearest neighbour's, which changes no order and cannot overflow.
        weights = ((similarities - similarities[:, :1]).double() / temperature).exp()
        scores = torch.zeros(len(chunk), classes, dtype=torch.float64)
        scores.scatter_add_(1, bank_labels[places], weights)  # m x C
        own = scores.gather(1, truth[:, None])
        smaller = torch.arange(classes) < truth[:, None]
        rank = ((scores > own) | ((scores == own) & smaller)).sum(dim=1)
        voted = own[:, 0] > 0
        top1 += int((voted & (rank < 1)).sum())
        top5 += int((voted & (rank < 5)).sum())
    return top1, top5


def _percent(right: tuple[int, int], images: int) -> dict[str, float]:
    return {"top1": 100 * right[0] / images, "top5": 100 * right[1] / images}


class KNNMonitor(HookBase):
    """Logs ``knn_top1`` and ``knn_top5``, in percent, of the encoder in training, on a labelled split.

    It looks at a copy of ``trainer.method.encoder_q`` (or ``.encoder``) without its head, in evaluation mode and with
    the main process's batch-norm statistics, which are those of the checkpoint. Neither the model nor a random number
    is touched: training goes on as if it had not looked. The processes share the work: each makes the features of its
    part of both splits and searches its part of the reference images; the main one merges and votes. The hook must come
    before the writers.

    Args:
        cfg: the node ``KNN`` of the config.
        crop_size: side of the central crop, in pixels.
        iterations_per_epoch: of the training that is monitored.
        batch_size: images at a time, in each process.
        num_workers: loader processes of each process.

    Raises:
        FileNotFoundError, ValueError: see `LabelledFolder`; the splits have other classes; fewer reference images than
            ``KNN.K``.
    """

    def __init__(
        self, cfg: CfgNode, crop_size: int, iterations_per_epoch: int, *, batch_size: int = 256, num_workers: int = 0
    ) -> None:
        self.bank = _open(cfg, "TRAIN_ROOT")
        self.queries = _open(cfg, "VAL_ROOT")
        try:
            require_same_classes(self.bank.classes, self.queries.classes)
        except ValueError as error:
            raise ValueError(f"KNN.TRAIN_ROOT {cfg.TRAIN_ROOT}, KNN.VAL_ROOT {cfg.VAL_ROOT}: {error}") from error
        if len(self.bank.labels) < cfg.K:
            raise ValueError(
                f"KNN.K is {cfg.K}, but KNN.TRAIN_ROOT {cfg.TRAIN_ROOT} has {len(self.bank.labels)} images; lower KNN.K"
            )
        self.k = cfg.K
        self.temperature = cfg.TEMPERATURE
        self.period = cfg.PERIOD or iterations_per_epoch
        self.crop_size = crop_size
        self.batch_size = batch_size
        self.num_workers = num_workers

    def after_step(self) -> None:
        """Measure after every so many epochs and after the last iteration."""
        done = self.trainer.iter + 1
        if done % self.period and done != self.trainer.max_iter:
            return
        began = time.perf_counter()
        found = self.measure(self.trainer.method, self.trainer.device, self.trainer.dtype)
        self.trainer.storage.put_scalars(smoothing_hint=False, knn_top1=found["top1"], knn_top5=found["top5"])
        logger.info(
            f"{self.k}-NN after {done} iterations: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} % of"
            f" {len(self.queries.labels)} images, in {time.perf_counter() - began:.1f} s"
        )

    def measure(self, method: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, float]:
        """Return ``"top1"`` and ``"top5"`` of the encoder in ``method``, in percent. All processes must call."""
        backbone = copy.deepcopy(method.encoder_q if hasattr(method, "encoder_q") else method.encoder).eval()
        backbone.fc = nn.Identity()
        share_buffers(backbone)
        rank, world = comm.get_rank(), comm.get_world_size()
        settings = FeatureSettings(self.crop_size, self.batch_size, device, self.num_workers, dtype)
        mine = range(rank, len(self.bank.labels), world)
        bank, _ = extract_features(backbone, self.bank, settings, mine)
        truth = self.queries.labels
        part, _ = extract_features(backbone, self.queries, settings, range(rank, len(truth), world))
        # A process may have fewer than k of the reference images; together they have enough.
        k = min(self.k, len(bank))
        top1 = top5 = 0
        # Some queries of each process at a time, so that what is gathered does not grow with the number of processes.
        each = max(1, LISTS_AT_ONCE // world**2)
        for begin in range(0, -(-len(truth) // world), each):
            # A copy, since a slice would be sent with all that it is a slice of.
            queries = _interleave(comm.all_gather(part[begin : begin + each].clone()))
            keys = nearest_keys(bank, queries, k, device=device, places=torch.tensor(mine)) if k else None
            lists = [found for found in comm.gather(keys) if found is not None]
            if lists:  # in the main process only
                best = torch.cat(lists, dim=1).topk(self.k, dim=1).values
                right = count_right(best, self.bank.labels, truth[begin * world :][: len(queries)], self.temperature)
                top1, top5 = top1 + right[0], top5 + right[1]
        return _percent(comm.all_gather((top1, top5))[0], len(truth))


def _open(cfg: CfgNode, key: str) -> LabelledFolder:
    try:
        found = LabelledFolder(cfg[key])
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"KNN.{key}: {error}") from error
    warn_of_passed_over(found.images, f"KNN.{key} {cfg[key]}")
    return found


def _interleave(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Undo the division of rows between processes, of which each took every so-many-th."""
    rows = torch.empty(sum(map(len, parts)), max(part.shape[1] for part in parts), dtype=parts[0].dtype)
    for rank, part in enumerate(parts):
        if len(part):
            rows[rank :: len(parts)] = part
    return rows
