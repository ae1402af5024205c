"""From a config to the objects of a pre-training run."""

import hashlib
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn

from mocodet.common.encoders.resnet import build_resnet
from mocodet.common.launch import refuse_nccl_on_cpu

from .data import BatchSampler, EpochSampler, ImageFolder, ShardImages, ShardSampler, Views, build_view, open_labelled
from .data.folders import warn_of_passed_over
from .methods import EndToEnd, MemoryBank, MomentumContrast
from .methods.heads import build_encoder
from .methods.shuffle_bn import BatchShuffle, GroupedBatchNorm2d
from .methods.supervised import SupervisedClassifier

logger = logging.getLogger("mocodet.pretrain")

# With BN_GROUPS 0, one process normalises as the eight GPUs of the paper do.
PAPER_DEVICES = 8

METHODS = {
    "moco": MomentumContrast,
    "end_to_end": EndToEnd,
    "memory_bank": MemoryBank,
    "supervised": SupervisedClassifier,
}


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from.

    Attributes:
        dataset: makes the views of an item.
        sampler: the stream of items, in batches.
        size: images in the data set.
        classes: their names, where there are labels.
    """

    dataset: Views
    sampler: BatchSampler
    size: int
    classes: tuple[str, ...] = ()


def resolve_device(cfg: CfgNode) -> torch.device:
    """Return the device of ``MODEL.DEVICE``; ``"auto"`` is CUDA when there, CPU otherwise.

    Raises:
        ValueError: ``"cuda"`` on a machine without it.
    """
    available = torch.cuda.is_available()
    if cfg.MODEL.DEVICE == "cpu":
        refuse_nccl_on_cpu()
    if cfg.MODEL.DEVICE == "cuda" and not available:
        raise ValueError("MODEL.DEVICE is 'cuda', but PyTorch finds no CUDA device; use 'auto' or 'cpu'")
    use_cuda = available and cfg.MODEL.DEVICE != "cpu"
    return torch.device("cuda", comm.get_local_rank()) if use_cuda else torch.device("cpu")


def memory_format(cfg: CfgNode) -> torch.memory_format:
    """Return the format of images and weights that ``MODEL.CHANNELS_LAST`` asks for."""
    return torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype:
    """Return the precision that the encoders run in.

    ``"auto"``: on CUDA, bfloat16 where the GPU has it and float16 where not; on a CPU, bfloat16 where the processor
    multiplies in it and float32 elsewhere, since emulating it is slower.

    Raises:
        ValueError: float16 on a CPU.
    """
    wanted = cfg.SOLVER.PRECISION
    if wanted != "auto":
        if wanted == "float16" and device.type == "cpu":
            raise ValueError("SOLVER.PRECISION float16 needs CUDA; use bfloat16, float32 or auto on a CPU")
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Say whether this processor multiplies bfloat16 natively."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # PyTorch says yes to any AVX-512, where it can emulate; the processor's own flags tell.
        flags = Path("/proc/cpuinfo")
        return flags.is_file() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def bn_groups(cfg: CfgNode) -> int:
    """Return how many groups of its batch each process normalises separately.

    Raises:
        ValueError: the rows of a process do not divide into the groups, or a group would have a single image.
    """
    world = comm.get_world_size()
    groups = cfg.MODEL.BN_GROUPS or (PAPER_DEVICES if world == 1 else 1)
    rows = cfg.SOLVER.IMS_PER_BATCH // world
    if rows % groups or rows < 2 * groups:
        raise ValueError(
            f"each process has {rows} images of a batch (SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} over {world} "
            f"process(es)), which do not divide into {groups} batch-norm groups of two or more; set MODEL.BN_GROUPS"
        )
    if groups == world == 1 and cfg.METHOD in ("moco", "end_to_end"):
        logger.warning(
            "one process and MODEL.BN_GROUPS 1: every query shares its batch-norm statistics with its key, so Shuffling"
            " BN does nothing and the pretext task can be solved without learning (paper, section 3.3)"
        )
    return groups


def build_data(cfg: CfgNode) -> TrainingData:
    """Open the images of ``cfg.DATA``, with the views that ``cfg.METHOD`` looks at.

    Raises:
        FileNotFoundError, ValueError: no images, or too few; labels that do not fit them.
    """
    view = build_view(cfg.AUGMENTATION.NAME, cfg.AUGMENTATION.CROP_SIZE, cfg.AUGMENTATION.MIN_SCALE)
    names = METHODS[cfg.METHOD].views
    batch, seed = cfg.SOLVER.IMS_PER_BATCH, cfg.SEED
    if cfg.DATA.SHARDS:
        sampler = ShardSampler(cfg.DATA.SHARDS, batch, seed, cfg.DATA.SHUFFLE_BUFFER)
        return TrainingData(Views(ShardImages(), view, seed, names), sampler, sampler.dataset_size)
    if cfg.METHOD == "supervised":
        labelled = open_labelled(cfg.DATA.ROOT, cfg.DATA.ANNOTATIONS)
        images, labels, classes = labelled.images, labelled.labels, tuple(labelled.classes)
    else:
        images, labels, classes = ImageFolder(cfg.DATA.ROOT), None, ()
    warn_of_passed_over(images, cfg.DATA.ROOT)
    sampler = EpochSampler(len(images), batch, seed, identity=identify(images.paths, cfg.DATA.ROOT, labels))
    dataset = Views(images, view, seed, names, labels)
    return TrainingData(dataset, sampler, len(images), classes)


def identify(paths: Sequence[str], root: str, labels: torch.Tensor | None) -> str:
    """Return a hash (hexadecimal, 128 bits) of files in their order, relative to ``root``, and of their classes."""
    folder = str(Path(root))
    names = "\0".join(path.removeprefix(folder) for path in paths)
    found = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
    if labels is not None:
        found.update(labels.numpy().tobytes())
    return found.hexdigest()[:32]


def build_model(cfg: CfgNode, data: TrainingData) -> nn.Module:
    """Build what ``cfg.METHOD`` names: a contrast mechanism with its encoders, or a classifier.

    Raises:
        ValueError: see `bn_groups`, `build_encoder` and `MemoryBank`.
    """
    model = cfg.MODEL
    if cfg.METHOD == "supervised":
        network = build_resnet(model.ARCH, small_stem=model.SMALL_STEM, num_classes=len(data.classes))
        return SupervisedClassifier(network)
    groups = bn_groups(cfg)
    norm = nn.BatchNorm2d if groups == 1 else partial(GroupedBatchNorm2d, num_groups=groups)
    encoder = build_encoder(model.ARCH, model.HEAD, model.DIM, norm, model.SMALL_STEM)
    shuffle = BatchShuffle(cfg.SEED, enabled=cfg.CONTRAST.SHUFFLE_BN)
    if cfg.METHOD == "end_to_end":
        return EndToEnd(encoder, shuffle, temperature=cfg.CONTRAST.TEMPERATURE)
    if cfg.METHOD == "memory_bank":
        return MemoryBank(
            encoder,
            dataset_size=data.size,
            num_negatives=cfg.CONTRAST.NUM_NEGATIVES,
            bank_momentum=cfg.CONTRAST.BANK_MOMENTUM,
            dim=model.DIM,
            temperature=cfg.CONTRAST.TEMPERATURE,
            seed=cfg.SEED,
            device=resolve_device(cfg),
        )
    return MomentumContrast(
        encoder,
        shuffle,
        queue_size=cfg.CONTRAST.QUEUE_SIZE,
        dim=model.DIM,
        momentum=cfg.CONTRAST.MOMENTUM,
        temperature=cfg.CONTRAST.TEMPERATURE,
    )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD over the parameters that get a gradient, weight decay on all of them as in the original code."""
    return torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
