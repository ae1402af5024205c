"""Encoding of queries and keys, shared by all contrastive methods."""

import torch
import torch.nn.functional as F
from torch import nn

from .shuffle_bn import BatchShuffle


def embed(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Encode images, N x 3 x H x W, as unit vectors, N x C, in float32 regardless of the encoder's precision."""
    return F.normalize(encoder(images).float(), dim=1)


def embed_shuffled(encoder: nn.Module, images: torch.Tensor, shuffle: BatchShuffle) -> torch.Tensor:
    """Encode images in shuffled order (Shuffling BN, section 3.3).

    Args:
        encoder: maps images to vectors.
        images: images of this process, N x 3 x H x W.
        shuffle: moves images between devices or batch-norm groups, and their vectors back.

    Returns:
        unit vectors of the global batch, WN x C, float32, in the original order. The gradient of each vector flows back
        to the process that encoded it.
    """
    permutation = shuffle.draw(len(images))
    return shuffle.unshuffle_gathered(embed(encoder, shuffle.shuffle(images, permutation)), permutation)


@torch.no_grad()
def spread(vectors: torch.Tensor) -> torch.Tensor:
    """Return the spread of unit vectors, N x C: the standard deviation averaged over dimensions, times sqrt(C).

    The spread is close to 1 if the vectors cover the sphere. It is 0 if the encoder has collapsed, which means that it
    returns the same vector for every image (SimSiam, section 4.1 and figure 2).
    """
    return vectors.std(dim=0, correction=0).mean() * vectors.shape[1] ** 0.5
