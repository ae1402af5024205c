"""Encoding of queries and keys, the same for every way of keeping keys."""

import torch
import torch.nn.functional as F
from torch import nn

from .shuffle_bn import BatchShuffle


def embed(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Encode images, N x 3 x H x W, to unit vectors, N x C, in float32 whatever precision the encoder ran in."""
    return F.normalize(encoder(images).float(), dim=1)


def embed_shuffled(encoder: nn.Module, images: torch.Tensor, shuffle: BatchShuffle) -> torch.Tensor:
    """Encode images in shuffled order (Shuffling BN, section 3.3).

    Args:
        encoder: images to vectors.
        images: N x 3 x H x W, this process's.
        shuffle: moves images between devices or batch-norm groups, and their vectors back.

    Returns:
        Unit vectors of the global batch, WN x C, float32, in the order of the images. The gradient of each goes to the
        process that encoded it.
    """
    permutation = shuffle.draw(len(images))
    return shuffle.unshuffle_gathered(embed(encoder, shuffle.shuffle(images, permutation)), permutation)


@torch.no_grad()
def spread(vectors: torch.Tensor) -> torch.Tensor:
    """Return how far unit vectors, N x C, differ: the standard deviation of a dimension, mean over all, times sqrt(C).

    Near 1 where they lie all over the sphere, 0 where the encoder gives one vector to every image: collapse (SimSiam,
    section 4.1 and figure 2).
    """
    return vectors.std(dim=0, correction=0).mean() * vectors.shape[1] ** 0.5
