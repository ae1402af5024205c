"""Frozen backbones and their pooled features of labelled images."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn
from torchvision import transforms

from mocodet.common.checkpoint import load_torch_file
from mocodet.common.encoders.resnet import build_resnet
from mocodet.common.files import atomic_open
from mocodet.common.progress import progress

from ..data.augment.pillow import PillowViews
from ..data.folders import LabelledImages
from ..data.loader import load_batches
from ..data.views import Views, normalize

logger = logging.getLogger("mocodet.pretrain")

# Version in the names of feature files. Increase it whenever features are computed differently.
CACHE_VERSION = 1


@dataclass(frozen=True)
class FeatureSettings:
    """Settings for computing features.

    Attributes:
        size: side length of the central crop, in pixels.
        batch_size: number of images per batch.
        device: device on which the backbone runs.
        num_workers: number of loader processes.
        dtype: precision of the backbone. Autocast is used for anything below float32.
        storage: data type in which features are stored. For ImageNet (1.28 million images) and a ResNet-50, features
            take 10.5 GB in float32 and half of that in float16.
    """

    size: int = 224
    batch_size: int = 256
    device: torch.device | str = "cpu"
    num_workers: int = 0
    dtype: torch.dtype = torch.float32
    storage: torch.dtype = torch.float32


def load_crops(
    views: Views, order: Sequence[Sequence[tuple[int, int]]], settings: FeatureSettings, what: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of crops (uint8, N x 3 x size x size) and their labels (N), both on the device.

    The main process displays the progress.

    Args:
        views: labelled images with a single view, ``"image"``.
        order: batches of ``(index, draw)`` pairs, one pair for each image; see `Views`.
        settings: see `FeatureSettings`.
        what: name of a batch in the progress display.

    Raises:
        ValueError: an image cannot be read.
    """
    batches = load_batches(views, settings.num_workers, batch_sampler=order)
    for batch in progress(batches, what, len(order)) if comm.is_main_process() else batches:
        yield batch["image"].to(settings.device), batch["label"].to(settings.device)


def central_crops(
    data: LabelledImages, settings: FeatureSettings, places: Sequence[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Call `load_crops` for central square crops, after resizing the shorter side to 256/224 of the crop size."""
    size, rows = settings.size, settings.batch_size
    view = transforms.Compose([transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)])
    pairs = [(place, 0) for place in places]
    order = [pairs[begin : begin + rows] for begin in range(0, len(pairs), rows)]
    return load_crops(Views(data.images, PillowViews(view), 0, ("image",), data.labels), order, settings, "image batch")


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Run float32 convolutions on CUDA in float32 instead of TF32 (10-bit mantissa), which is PyTorch's default.

    Benchmarking of convolution algorithms is also disabled, because the fastest one can vary between runs.
    """
    flags = torch.backends.cudnn
    before = flags.allow_tf32, flags.benchmark
    flags.allow_tf32 = flags.benchmark = False
    try:
        yield
    finally:
        flags.allow_tf32, flags.benchmark = before


def share_buffers(network: nn.Module) -> None:
    """Copy the main process's buffers, which are those saved in checkpoints, to all processes. All must call this."""
    if comm.get_world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def random_backbone(arch: str, seed: int, small_stem: bool = False) -> nn.Module:
    """Build a backbone with random weights, the baseline that trained features must exceed.

    Returns:
        a float32 ResNet in evaluation mode whose ``fc`` is the identity, like the result of `Encoder.build`.

    Raises:
        ValueError: ``arch`` is unknown.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build_resnet(arch, small_stem=small_stem)
    network.fc = nn.Identity()
    return network.eval()


@torch.no_grad()
def pooled_features(backbone: nn.Module, images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the float32 features, N x D, of images (uint8, N x 3 x H x W, RGB, on the backbone's device).

    Args:
        backbone: a network in evaluation mode whose ``fc`` is the identity.
        images: images that have not been normalised yet.
        dtype: precision of the backbone.

    Raises:
        FloatingPointError: a feature is not finite.
    """
    device = images.device.type
    with exact_convolutions(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        features = backbone(normalize(images.contiguous(memory_format=torch.channels_last))).float()
    if not features.isfinite().all():
        raise FloatingPointError(f"the backbone's features in {dtype} are not finite; use float32 instead")
    return features


def extract_features(
    backbone: nn.Module, data: LabelledImages, settings: FeatureSettings, places: Sequence[int] | None = None
) -> torch.Tensor:
    """Compute features of central crops without augmentation: N x D, with data type ``settings.storage``, on the CPU.

    Args:
        backbone: a network on ``settings.device`` in evaluation mode whose ``fc`` is the identity.
        data: labelled images.
        settings: see `FeatureSettings`.
        places: indices of the images to use. All images are used by default.

    Raises:
        ValueError: an image cannot be read.
        FloatingPointError: a feature is not finite.
    """
    if backbone.training:
        raise ValueError(
            "the backbone is in training mode, which would change its batch-norm statistics; call eval() first"
        )
    places = range(len(data.labels)) if places is None else places
    features = torch.empty(0, 0, dtype=settings.storage)
    done = 0
    for images, _ in central_crops(data, settings, places):
        batch = pooled_features(backbone, images, settings.dtype)
        if not done:  # D is known only now. Allocate all rows at once, because joining a list would double the memory
            features = torch.empty(len(places), batch.shape[1], dtype=settings.storage)
        features[done : done + len(batch)] = batch.cpu()
        done += len(batch)
    if not features.isfinite().all():
        raise FloatingPointError(f"features are outside the range of {settings.storage}; store them in float32 instead")
    return features


def cached_features(
    backbone: nn.Module, data: LabelledImages, settings: FeatureSettings, cache: str | os.PathLike | None = None
) -> torch.Tensor:
    """Return the result of `extract_features`, cached in a file in the folder ``cache``.

    The file name is a digest of everything that affects the features: weights, settings, image files and labels.
    """
    if cache is None:
        return extract_features(backbone, data, settings)
    path = Path(cache, f"features-{_cache_key(backbone, data, settings)}.pt")
    if path.is_file():
        logger.info(f"loaded the features of {len(data.labels)} images from {path}")
        return load_torch_file(path)["features"]
    features = extract_features(backbone, data, settings)
    with atomic_open(path) as handle:
        torch.save({"features": features}, handle)
    return features


def _cache_key(backbone: nn.Module, data: LabelledImages, settings: FeatureSettings) -> str:
    how = (settings.size, settings.dtype, settings.storage, torch.device(settings.device).type)
    known = f"{CACHE_VERSION} {state_digest(backbone)} {how}{listing_digest(data)}"
    return hashlib.sha256(known.encode()).hexdigest()[:32]


def listing_digest(data: LabelledImages) -> str:
    """Return a hash of the labels and of the path, size and modification time of each file in a data set."""
    digest = hashlib.sha256(data.labels.numpy().tobytes())
    for path in data.images.paths:
        status = os.stat(path)  # noqa: PTH116 (a million files)
        told = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\0"  # noqa: PTH100
        digest.update(told.encode("utf-8", "surrogateescape"))  # names need not be UTF-8
    return digest.hexdigest()


def state_digest(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of ``module``, including their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
