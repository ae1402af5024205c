"""Encoding of queries and keys, for all contrastive methods."""

import torch
import torch.nn.functional as F
from torch import nn

from .shuffle_bn import BatchShuffle


def embed(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Encode images, N x 3 x H x W, to unit vectors, N x C, in float32 for any precision of the encoder."""
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
    """Return the spread of unit vectors, N x C: the mean standard deviation of a dimension, times sqrt(C).

    It is near 1 if they cover the sphere, and 0 if the encoder gives every image the same vector, which is a collapse
    (SimSiam, section 4.1 and figure 2).
    """
    return vectors.std(dim=0, correction=0).mean() * vectors.shape[1] ** 0.5
