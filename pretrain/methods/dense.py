"""Dense contrast (DenseCL: Wang et al., CVPR 2021, arXiv 2011.09157), which extends MoCo v2 to feature map cells."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn

from ..host import send
from ..keys import SHARE, Key, at_least, check_value, one_of
from .base import DataFacts
from .encoding import embed, spread
from .heads import dense_head_from_config
from .losses import queue_info_nce
from .moco import MomentumContrast, move_towards
from .shuffle_bn import BatchShuffle

# What the second queue contains for each image: the mean of its cells (DenseCL), or one of its cells.
NEGATIVES = ("pooled", "cells")


class DenseKeys(NamedTuple):
    """Keys of a batch with N images in this process and WN in total, in float32 (``maps``: in the encoder's precision).

    Attributes:
        vectors: the keys of MoCo, N x C.
        maps: feature maps for matching cells, N x D x S x S.
        cells: a unit vector for each cell, N x C x S x S.
        all_vectors: the keys of all processes, WN x C.
        all_negatives: for each image, the unit vector that represents its ``cells`` in the second queue, WN x C.
    """

    vectors: torch.Tensor
    maps: torch.Tensor
    cells: torch.Tensor
    all_vectors: torch.Tensor
    all_negatives: torch.Tensor


class DenseContrast(MomentumContrast, name="dense"):
    """MoCo with a second head, which computes a vector for each cell of the last feature map, and a second queue.

    The positive of a query cell is the dense vector of the key cell with the most similar backbone features (section
    3.4). Its negatives are one vector for each of the other images: the normalised mean of the unit vectors of their
    cells (section 3.3). The loss is (1 - lambda) global + lambda dense.

    Zero padding reveals to the encoder where a cell lies in the grid. If most cells are matched with the cell at the
    same place, as in grids of 3 x 3, the place alone identifies the positive, because the means in the queue have no
    place. With ``dense_negatives="cells"``, each negative is a single cell, which has a place. This differs from
    DenseCL (docs/lab/dense_places.md).

    Additional state: ``dense_head_q.*``, ``dense_head_k.*``, ``dense_queue`` (C x K) and ``dense_queue_ptr`` (1).

    Args:
        encoder: f_q, a ResNet that maps images to N x C vectors. The output of its ``layer4`` is used as feature map.
        shuffle: moves key images between devices or batch-norm groups, and their vectors and maps back.
        dense_head: maps feature maps, N x D x S x S, to N x C x S x S. The key head starts as a copy and is updated by
            momentum, like f_k.
        dense_weight: lambda, the weight of the dense loss.
        dense_warmup_iters: number of initial iterations in which lambda is 0, while the dense queue is filled.
        dense_negatives: ``"pooled"`` enqueues the mean of each key's cells, ``"cells"`` one of its cells.
        options: arguments of `MomentumContrast`. ``queue_size`` applies to both queues, ``temperature`` to both losses.

    Raises:
        ValueError: the encoder has no ``layer4``, or ``dense_negatives`` has another value.
    """

    dense_queue: torch.Tensor
    dense_queue_ptr: torch.Tensor
    keys = MomentumContrast.keys | {
        "CONTRAST.DENSE_WEIGHT": Key(
            0.5, "lambda, the weight of the dense loss. The weight of the global loss is 1 - lambda.", SHARE
        ),
        "CONTRAST.DENSE_WARMUP_ITERS": Key(0, "Number of initial iterations in which lambda is 0.", at_least(0)),
        "CONTRAST.DENSE_NEGATIVES": Key(
            "pooled",
            "Negatives of a cell, one from each other image: the mean of its cells ('pooled', as in DenseCL) or one of"
            " its cells ('cells', for grids smaller than 7 x 7, in which the place of a cell reveals its match).",
            one_of(*NEGATIVES),
        ),
    }

    def __init__(
        self,
        encoder: nn.Module,
        shuffle: BatchShuffle,
        *,
        dense_head: nn.Module,
        dense_weight: float = 0.5,
        dense_warmup_iters: int = 0,
        dense_negatives: str = "pooled",
        **options: Any,
    ) -> None:
        super().__init__(encoder, shuffle, **options)
        if not hasattr(encoder, "layer4"):
            raise ValueError(
                f"{type(encoder).__name__} has no layer4; expected a ResNet, such as the result of build_encoder"
            )
        expected = f"one of {', '.join(NEGATIVES)}"
        check_value(dense_negatives in NEGATIVES, "dense_negatives", dense_negatives, expected)
        self.dense_head_q = dense_head
        self.dense_head_k = copy.deepcopy(dense_head)
        self.dense_head_k.requires_grad_(False)
        self.base_dense_weight = dense_weight
        self.dense_warmup_iters = dense_warmup_iters
        self.dense_weight = 0.0 if dense_warmup_iters else dense_weight
        self.dense_negatives = dense_negatives
        self.register_buffer("dense_queue", F.normalize(torch.randn_like(self.queue), dim=0))  # C x K
        self.register_buffer("dense_queue_ptr", torch.zeros(1, dtype=torch.long))

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Check that crops are large enough: a last feature map with a single cell would leave nothing to match.

        Raises:
            ValueError: the crops are too small, or the queue cannot contain a cell of every place.
        """
        super().check_config(cfg)
        size, stride = cfg.AUGMENTATION.CROP_SIZE, stride_of(cfg)
        more_than_one_cell = (
            f"more than {stride}, the stride of this encoder: METHOD 'dense' contrasts cells of the last feature map,"
            " which would have only one cell"
        )
        check_value(size > stride, "AUGMENTATION.CROP_SIZE", size, more_than_one_cell)
        if cfg.CONTRAST.DENSE_NEGATIVES == "cells":
            cells, queue_size = cells_of(cfg), cfg.CONTRAST.QUEUE_SIZE
            one_each = f"at least {cells}, so that the dense queue has a cell of every place in the grid"
            check_value(queue_size >= cells, "CONTRAST.QUEUE_SIZE", queue_size, one_each)

    @classmethod
    def check_length(cls, cfg: CfgNode, max_iter: int) -> None:
        """Check that lambda becomes positive before the end of the run.

        Raises:
            ValueError: the warm-up is not shorter than the run.
        """
        super().check_length(cfg, max_iter)
        warmup = cfg.CONTRAST.DENSE_WARMUP_ITERS
        fewer = f"fewer than the {max_iter} iterations of the run; otherwise METHOD 'dense' would be the same as MoCo"
        check_value(warmup < max_iter, "CONTRAST.DENSE_WARMUP_ITERS", warmup, fewer)

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the keyword arguments from the config, including the dense head."""
        return super().options(cfg) | {
            "dense_head": dense_head_from_config(cfg),
            "dense_weight": cfg.CONTRAST.DENSE_WEIGHT,
            "dense_warmup_iters": cfg.CONTRAST.DENSE_WARMUP_ITERS,
            "dense_negatives": cfg.CONTRAST.DENSE_NEGATIVES,
        }

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return the chance levels of MoCo, which also apply to cells because both queues have the same length.

        That of ``same_place`` is 1/S^2.
        """
        levels = super().chance(cfg, data)
        parts = dict.fromkeys(("loss_global", "loss_dense"), levels["loss"])
        return {**levels, **parts, "accuracy_dense": levels["accuracy"], "same_place": 1 / cells_of(cfg)}

    def begin_step(self, iteration: int, max_iter: int) -> None:
        """Set lambda and, as in MoCo, the momentum m."""
        super().begin_step(iteration, max_iter)
        self.dense_weight = 0.0 if iteration < self.dense_warmup_iters else self.base_dense_weight

    def to_fill(self) -> dict[str, int]:
        """Return the lengths of both queues."""
        return {**super().to_fill(), "dense_queue": self.queue_size}

    @torch.no_grad()
    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Add the keys of a batch to both queues. The query encoder is not used."""
        keys = self.encode_dense_keys(batch["key"])
        self.dequeue_and_enqueue(keys.all_vectors, self.queue, self.queue_ptr)
        self.dequeue_and_enqueue(keys.all_negatives, self.dense_queue, self.dense_queue_ptr)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one training step, excluding the optimizer, in the same order as MoCo.

        Args:
            batch: ``"query"`` and ``"key"``, N x 3 x H x W each, two views of the same images.

        Returns:
            the outputs of MoCo and their dense counterparts: ``"loss"``, a scalar with gradients for ``encoder_q`` and
            ``dense_head_q``; its parts ``"loss_global"`` (images) and ``"loss_dense"`` (cells); ``"accuracy_dense"``,
            the fraction of query cells whose positive is more similar than all vectors in the dense queue; and
            ``"same_place"``, the fraction whose positive lies at the same place in the grid. With lambda 1,
            ``"spread"`` is that of the cells, because the vectors of images are not trained.
        """
        q, maps = embed_with_maps(self.encoder_q, batch["query"])  # N x C, N x D x S x S
        cells = rows_of(embed(self.dense_head_q, maps))  # NS^2 x C
        with torch.no_grad():
            self.momentum_update()
            keys = self.encode_dense_keys(batch["key"])
            places = nearest_cells(maps, keys.maps)  # N x S^2
            positives = rows_of(take_cells(keys.cells, places))  # NS^2 x C
            same_place = (places == torch.arange(places.shape[1], device=places.device)).float().mean()
        outputs = self.contrast(q, keys.vectors, keys.all_vectors)
        dense, accuracy = queue_info_nce(cells, positives, self.dense_queue, self.temperature)
        self.dequeue_and_enqueue(keys.all_negatives, self.dense_queue, self.dense_queue_ptr)
        loss = (1 - self.dense_weight) * outputs["loss"] + self.dense_weight * dense
        parts = {"loss_global": outputs["loss"].detach(), "loss_dense": dense.detach()}
        if self.base_dense_weight == 1:
            parts["spread"] = spread(cells)
        return outputs | {"loss": loss, "accuracy_dense": accuracy, "same_place": same_place} | parts

    @torch.no_grad()
    def momentum_update(self) -> None:
        """Update f_k and the dense head of the keys by momentum."""
        super().momentum_update()
        move_towards(self.dense_head_k, self.dense_head_q, 1 - self.momentum)

    @torch.no_grad()
    def encode_dense_keys(self, images: torch.Tensor) -> DenseKeys:
        """Encode key images, N x 3 x H x W, in shuffled order, and return the results in the original order.

        The vectors of images are sent to all processes for the queues. Maps and dense vectors of cells contain hundreds
        of times as many numbers and are sent only to the process that their image belongs to.
        """
        permutation = self.shuffle.draw(len(images))
        vectors, maps = embed_with_maps(self.encoder_k, self.shuffle.shuffle(images, permutation))
        cells = embed(self.dense_head_k, maps)
        first = self.shuffle.first_row(len(images))
        rows = permutation[first : first + len(images)]
        both = torch.cat((vectors, self.negatives(cells, rows)), dim=1)
        all_vectors, all_negatives = self.shuffle.unshuffle_gathered(both, permutation).chunk(2, dim=1)
        return DenseKeys(
            vectors=all_vectors[first : first + len(images)],
            maps=self.shuffle.unshuffle(maps, permutation),
            cells=self.shuffle.unshuffle(cells, permutation),
            all_vectors=all_vectors,
            all_negatives=all_negatives,
        )

    def negatives(self, cells: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the unit vectors that represent shuffled keys in the second queue, N x C.

        With ``"cells"``, the place of a key is the index of its column in the queue, modulo the number of cells.
        Therefore, the queue contains all places equally often (up to one), and a resumed run continues exactly.

        Args:
            cells: a unit vector for each cell, N x C x S x S.
            rows: the row of each key in the global batch before the shuffle, N, int64, on the CPU.
        """
        if self.dense_negatives == "pooled":
            return F.normalize(cells.mean(dim=(2, 3)), dim=1)
        columns = (self.dense_queue_ptr + send(rows, cells.device)) % self.queue_size
        places = columns % cells[0, 0].numel()
        return take_cells(cells, places[:, None]).squeeze(2)


def stride_of(cfg: CfgNode) -> int:
    """Return the side length in pixels of a cell of the last feature map."""
    return 8 if cfg.MODEL.SMALL_STEM else 32


def cells_of(cfg: CfgNode) -> int:
    """Return S^2, the number of cells in the last feature map of a crop."""
    return math.ceil(cfg.AUGMENTATION.CROP_SIZE / stride_of(cfg)) ** 2


def embed_with_maps(encoder: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images, N x 3 x H x W, like `embed`, and also return their maps before pooling, N x D x S x S."""
    with kept_outputs(encoder.get_submodule("layer4")) as maps:
        vectors = embed(encoder, images)
    return vectors, maps[0]


@contextmanager
def kept_outputs(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of a layer while the context is active."""
    outputs: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda layer, arguments, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


@torch.no_grad()
def nearest_cells(maps_q: torch.Tensor, maps_k: torch.Tensor) -> torch.Tensor:
    """Return the key cell with the highest cosine similarity for each query cell: N x S^2, int64.

    Args:
        maps_q, maps_k: backbone feature maps, N x D x S x S. Cells are numbered row by row.
    """
    with torch.autocast(maps_q.device.type, enabled=False):
        features_q, features_k = (maps.float().flatten(2) for maps in (maps_q, maps_k))  # N x D x S^2
        # Query features need not be normalised, because their length is the same for all cells of the key.
        return (features_q.transpose(1, 2) @ F.normalize(features_k, dim=1)).argmax(dim=2)


def take_cells(cells: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the vectors (N x C x P) at the indices ``places`` (N x P) from each image's ``cells`` (N x C x S x S)."""
    return cells.flatten(2).gather(2, places[:, None].expand(-1, cells.shape[1], -1))


def rows_of(cells: torch.Tensor) -> torch.Tensor:
    """Reshape the vectors of cells, N x C x ..., to one row per cell, image by image: N... x C."""
    return cells.flatten(2).transpose(1, 2).flatten(0, 1)
