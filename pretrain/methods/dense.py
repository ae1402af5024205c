"""Dense contrast (DenseCL: Wang et al., CVPR 2021, arXiv 2011.09157): MoCo v2 that also contrasts cells of maps."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn

from ..keys import SHARE, Key, at_least, check_value
from .base import DataFacts
from .encoding import embed
from .heads import dense_head_from_config
from .losses import queue_info_nce
from .moco import MomentumContrast, move_towards
from .shuffle_bn import BatchShuffle


class DenseKeys(NamedTuple):
    """Keys of a batch: N images of this process, WN of all; float32, but ``maps`` in the precision of the encoder.

    Attributes:
        vectors: N x C, the keys of MoCo.
        maps: N x D x S x S, features with which cells are matched.
        cells: N x C x S x S, a unit vector for each cell.
        all_vectors: WN x C.
        all_pooled: WN x C, unit vectors, the direction of the mean of an image's ``cells``.
    """

    vectors: torch.Tensor
    maps: torch.Tensor
    cells: torch.Tensor
    all_vectors: torch.Tensor
    all_pooled: torch.Tensor


class DenseContrast(MomentumContrast, name="dense"):
    """MoCo with a second head, which computes a vector for each cell of the last map, and a second queue for it.

    The positive of a query's cell is the dense vector of the key's cell with the most similar backbone features
    (section 3.4). Its negatives are one vector for each other image: the mean of the unit vectors of its cells,
    normalised again (section 3.3). The loss is (1 - lambda) global + lambda dense.

    Additional state: ``dense_head_q.*``, ``dense_head_k.*``, ``dense_queue`` (C x K) and ``dense_queue_ptr`` (1).

    Args:
        encoder: f_q, a ResNet that maps images to N x C vectors; the output of its ``layer4`` is the map.
        shuffle: moves key images between devices or batch-norm groups, and their vectors and maps back.
        dense_head: maps, N x D x S x S, to N x C x S x S. The key's head starts as a copy and follows it like f_k.
        dense_weight: lambda.
        dense_warmup_iters: iterations at the start in which lambda is 0 and the dense queue fills.
        options: see `MomentumContrast`. Both queues have its ``queue_size``, and both losses its ``temperature``.

    Raises:
        ValueError: the encoder has no ``layer4``.
    """

    dense_queue: torch.Tensor
    dense_queue_ptr: torch.Tensor
    keys = MomentumContrast.keys | {
        "CONTRAST.DENSE_WEIGHT": Key(0.5, "lambda, the weight of the dense loss; the global loss has the rest.", SHARE),
        "CONTRAST.DENSE_WARMUP_ITERS": Key(0, "Iterations at the start in which lambda is 0.", at_least(0)),
    }

    def __init__(
        self,
        encoder: nn.Module,
        shuffle: BatchShuffle,
        *,
        dense_head: nn.Module,
        dense_weight: float = 0.5,
        dense_warmup_iters: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, shuffle, **options)
        if not hasattr(encoder, "layer4"):
            raise ValueError(f"a {type(encoder).__name__} has no layer4; expected a ResNet, as from build_encoder")
        self.dense_head_q = dense_head
        self.dense_head_k = copy.deepcopy(dense_head)
        self.dense_head_k.requires_grad_(False)
        self.base_dense_weight = dense_weight
        self.dense_warmup_iters = dense_warmup_iters
        self.dense_weight = 0.0 if dense_warmup_iters else dense_weight
        self.register_buffer("dense_queue", F.normalize(torch.randn_like(self.queue), dim=0))  # C x K
        self.register_buffer("dense_queue_ptr", torch.zeros(1, dtype=torch.long))

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Refuse crops whose last map has a single cell, since it leaves nothing to match.

        Raises:
            ValueError: see above.
        """
        super().check_config(cfg)
        size, stride = cfg.AUGMENTATION.CROP_SIZE, 8 if cfg.MODEL.SMALL_STEM else 32
        more_than_one_cell = (
            f"more than {stride}, the stride of this encoder: METHOD 'dense' contrasts cells of its last map,"
            " which would have only one"
        )
        check_value(size > stride, "AUGMENTATION.CROP_SIZE", size, more_than_one_cell)

    @classmethod
    def check_length(cls, cfg: CfgNode, max_iter: int) -> None:
        """Refuse a run in which lambda would be 0 to the end.

        Raises:
            ValueError: see above.
        """
        super().check_length(cfg, max_iter)
        warmup = cfg.CONTRAST.DENSE_WARMUP_ITERS
        fewer = f"fewer than the {max_iter} iterations of the run, in which METHOD 'dense' would be MoCo"
        check_value(warmup < max_iter, "CONTRAST.DENSE_WARMUP_ITERS", warmup, fewer)

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the keyword arguments that the config gives, the dense head among them."""
        return super().options(cfg) | {
            "dense_head": dense_head_from_config(cfg),
            "dense_weight": cfg.CONTRAST.DENSE_WEIGHT,
            "dense_warmup_iters": cfg.CONTRAST.DENSE_WARMUP_ITERS,
        }

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return MoCo's levels, which also hold for cells, since both queues have the same length."""
        levels = super().chance(cfg, data)
        parts = dict.fromkeys(("loss_global", "loss_dense"), levels["loss"])
        return {**levels, **parts, "accuracy_dense": levels["accuracy"]}

    def begin_step(self, iteration: int, max_iter: int) -> None:
        """Set lambda and, as in MoCo, m."""
        super().begin_step(iteration, max_iter)
        self.dense_weight = 0.0 if iteration < self.dense_warmup_iters else self.base_dense_weight

    def to_fill(self) -> dict[str, int]:
        """Return the lengths of both queues."""
        return {**super().to_fill(), "dense_queue": self.queue_size}

    @torch.no_grad()
    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Enqueue the keys of a batch in both queues; the query side computes nothing."""
        keys = self.encode_dense_keys(batch["key"])
        self.dequeue_and_enqueue(keys.all_vectors, self.queue, self.queue_ptr)
        self.dequeue_and_enqueue(keys.all_pooled, self.dense_queue, self.dense_queue_ptr)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one step, without the optimizer, in the order of MoCo's.

        Args:
            batch: ``"query"`` and ``"key"``, N x 3 x H x W each, two views of the same images.

        Returns:
            ``"loss"``, a scalar with gradient to ``encoder_q`` and ``dense_head_q``; its parts ``"loss_global"``, of
            images, and ``"loss_dense"``, of cells; the other outputs of MoCo; and ``"accuracy_dense"``, the share of
            query cells whose positive is more similar than all vectors of the dense queue.
        """
        q, maps = embed_with_maps(self.encoder_q, batch["query"])  # N x C, N x D x S x S
        cells = rows_of(embed(self.dense_head_q, maps))  # NS^2 x C
        with torch.no_grad():
            self.momentum_update()
            keys = self.encode_dense_keys(batch["key"])
            positives = rows_of(take_cells(keys.cells, nearest_cells(maps, keys.maps)))  # NS^2 x C
        outputs = self.contrast(q, keys.vectors, keys.all_vectors)
        dense, accuracy = queue_info_nce(cells, positives, self.dense_queue, self.temperature)
        self.dequeue_and_enqueue(keys.all_pooled, self.dense_queue, self.dense_queue_ptr)
        loss = (1 - self.dense_weight) * outputs["loss"] + self.dense_weight * dense
        parts = {"loss_global": outputs["loss"].detach(), "loss_dense": dense.detach()}
        return outputs | {"loss": loss, "accuracy_dense": accuracy} | parts

    @torch.no_grad()
    def momentum_update(self) -> None:
        """Move f_k towards f_q, and the key's dense head towards the query's."""
        super().momentum_update()
        move_towards(self.dense_head_k, self.dense_head_q, 1 - self.momentum)

    @torch.no_grad()
    def encode_dense_keys(self, images: torch.Tensor) -> DenseKeys:
        """Encode key images, N x 3 x H x W, in shuffled order; return the results in the order of the images.

        Vectors of images go to all processes, for the queues. Maps and dense vectors of cells, with some hundred times
        as many numbers, go only to the process of their image.
        """
        permutation = self.shuffle.draw(len(images))
        vectors, maps = embed_with_maps(self.encoder_k, self.shuffle.shuffle(images, permutation))
        cells = embed(self.dense_head_k, maps)
        pooled = F.normalize(cells.mean(dim=(2, 3)), dim=1)
        gathered = self.shuffle.unshuffle_gathered(torch.cat((vectors, pooled), dim=1), permutation)
        all_vectors, all_pooled = gathered.chunk(2, dim=1)
        first = self.shuffle.first_row(len(images))
        return DenseKeys(
            vectors=all_vectors[first : first + len(images)],
            maps=self.shuffle.unshuffle(maps, permutation),
            cells=self.shuffle.unshuffle(cells, permutation),
            all_vectors=all_vectors,
            all_pooled=all_pooled,
        )


def embed_with_maps(encoder: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images, N x 3 x H x W, as `embed` does; also return their maps before pooling, N x D x S x S."""
    with kept_outputs(encoder.get_submodule("layer4")) as maps:
        vectors = embed(encoder, images)
    return vectors, maps[0]


@contextmanager
def kept_outputs(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of a layer while active."""
    outputs: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda layer, arguments, output: outputs.append(output))
    try:
        yield outputs
    finally:
        hook.remove()


@torch.no_grad()
def nearest_cells(maps_q: torch.Tensor, maps_k: torch.Tensor) -> torch.Tensor:
    """Return, for each cell of a query, the cell of its key with the highest cosine similarity: N x S^2, int64.

    Args:
        maps_q, maps_k: features of the backbone, N x D x S x S. Cells are numbered row by row.
    """
    with torch.autocast(maps_q.device.type, enabled=False):
        features_q, features_k = (maps.float().flatten(2) for maps in (maps_q, maps_k))  # N x D x S^2
        # No division by the length of a query cell's features: it is the same for all cells of the key.
        return (features_q.transpose(1, 2) @ F.normalize(features_k, dim=1)).argmax(dim=2)


def take_cells(cells: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the vectors (N x C x P) of each image's ``cells`` (N x C x S x S) at ``places`` (N x P)."""
    return cells.flatten(2).gather(2, places[:, None].expand(-1, cells.shape[1], -1))


def rows_of(cells: torch.Tensor) -> torch.Tensor:
    """Return vectors of cells, N x C x ..., as rows, image by image: N... x C."""
    return cells.flatten(2).transpose(1, 2).flatten(0, 1)
