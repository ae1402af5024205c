"""Checks a run before it starts, so that mistakes stop it immediately rather than after hours of training."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.utils import comm

from mocodet.common.checkpoint import errors_about, holds_checkpoint
from mocodet.common.config.weights import weights_file
from mocodet.common.formats.image import ImageTooLargeError, too_large
from mocodet.common.launch import check_backend, collective_timeout
from mocodet.common.text import did_you_mean, first_few

from ..data.classes import number_of_classes, predicts_pixels
from ..data.registration import parse_dataset
from ..data.semseg import check_labels as check_label_images
from ..densepose import is_densepose
from ..evaluation.kinds import KINDS, EvaluationKind, kind_of
from ..modeling.basic import DEPTHS
from ..weights.settings import Settings, refuse_other_format, settings_of
from .resuming import check_resumed, check_resumed_classes
from .trainer import AMP_DTYPES

# Architectures whose number of classes is compared with that of the data. A ProposalNetwork has no classes.
WITH_CLASSES = ("GeneralizedRCNN", "RetinaNet", "SemanticSegmentor")

# Values of keys that only detectron2 interprets, most of them not before the run has started.
NORMS = ("", "FrozenBN", "BN", "SyncBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # as in get_norm
RESNET_DEPTHS = (*DEPTHS, 50, 101, 152)
FORMATS = ("BGR", "RGB", "L", "YUV-BT.601", "HSV", "YCbCr")  # as in convert_PIL_to_numpy, with one or three channels

BASIC_CHANNELS = 64  # MODEL.RESNETS.RES2_OUT_CHANNELS of a ResNet-18 or -34

# The recipe is that of docs/small_scale.md, because the queue of the ImageNet recipe is longer than a small data set.
MAKE_WEIGHTS = (
    "create it from your images (docs/small_scale.md):  mocodet pretrain --config-file configs/pretrain/{recipe}"
    " DATA.ROOT path/to/images OUTPUT_DIR output/{name}  and  mocodet convert output/{name}/model_final.pth {weights};"
    " or specify a pre-training checkpoint of yours, or the published weights of a ResNet-50, moco://v2_200ep"
)


def check_run(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Check a run before it writes anything, and reject settings that would fail later or be ignored.

    The checks run in the following order, with quick checks first:

    1. the settings of this trainer, and the connection between the processes (`check_config`);
    2. unless ``eval_only``, the augmentation, the batch, the fraction of the labels and, with ``resume``, the run to
       resume (`check_resumed`);
    3. ``MODEL.WEIGHTS``;
    4. the data sets (`check_datasets`) and, with ``resume``, that the run has the same classes
       (`check_resumed_classes`);
    5. whether each data set in ``DATASETS.TEST`` can be evaluated (``check`` of its `EvaluationKind`).

    Args:
        cfg: the config of the run, with its ``MOCO.DATASETS`` registered.
        resume: whether the run resumes from the last checkpoint in ``OUTPUT_DIR``, if there is one.
        eval_only: whether the run only evaluates.

    Raises:
        FileNotFoundError: the weights or the data do not exist.
        ValueError: the config contradicts itself, the data, the machine or the run to resume.
    """
    check_config(cfg)
    if not eval_only:
        check_augmentation(cfg)
        check_batch(cfg)
        check_labels(cfg)
        if resume:
            check_resumed(cfg)
    check_weights(cfg, resume=resume, eval_only=eval_only)
    check_datasets(cfg, training=not eval_only)
    if resume and not eval_only:
        check_resumed_classes(cfg)
    for name in cfg.DATASETS.TEST:
        kind_of(name).check(cfg, name)


def check_config(cfg: CfgNode) -> None:
    """Check for settings that this trainer would otherwise ignore or that would fail later.

    Raises:
        ValueError: a setting is invalid or not supported.
    """
    _check_device(cfg)
    _check_choices(cfg)
    _check_steps(cfg)
    if cfg.MOCO.AMP_DTYPE not in AMP_DTYPES:
        raise ValueError(f"MOCO.AMP_DTYPE must be one of {', '.join(AMP_DTYPES)}, got {cfg.MOCO.AMP_DTYPE!r}")
    if cfg.TEST.AUG.ENABLED:
        raise ValueError("TEST.AUG.ENABLED is True, but test-time augmentation is not supported; set it to False")
    if cfg.SOLVER.AMP.ENABLED and cfg.MOCO.AMP_DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise ValueError("MOCO.AMP_DTYPE float16 requires CUDA; use bfloat16 on a CPU")
    if cfg.MODEL.DEVICE == "cpu":
        check_backend()
    collective_timeout(cfg)
    for key, least in (("CHECKPOINTS_KEPT", 1), ("CHECKPOINTS_KEPT_EVERY", 0)):
        if cfg.SOLVER[key] < least:
            raise ValueError(f"SOLVER.{key} is {cfg.SOLVER[key]}; expected at least {least}")
    _check_channels(cfg)
    _check_basic_blocks(cfg)


def _check_device(cfg: CfgNode) -> None:
    """Check that PyTorch understands the name of the device."""
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; expected cpu, cuda, or cuda:N for the GPU with index N"
        ) from None


def _check_choices(cfg: CfgNode) -> None:
    """Check the keys that accept only certain values."""
    for key, value, accepted in _choices(cfg):
        if value not in accepted:
            names = list(map(str, accepted))
            expected = first_few([name or "'' for none" for name in names], 20)
            raise ValueError(f"{key} is {value!r}; expected one of {expected}{did_you_mean(str(value), names)}")


def _choices(cfg: CfgNode) -> Iterator[tuple[str, object, Sequence[object]]]:
    """Yield keys with their values and the accepted values. User modules may have added names to the registries."""
    model, resnets = cfg.MODEL, cfg.MODEL.RESNETS
    backbones = dict(BACKBONE_REGISTRY)
    yield "MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, [*dict(META_ARCH_REGISTRY)]
    yield "MODEL.BACKBONE.NAME", model.BACKBONE.NAME, [*backbones]
    if model.META_ARCHITECTURE == "GeneralizedRCNN":
        yield "MODEL.ROI_HEADS.NAME", model.ROI_HEADS.NAME, [*dict(ROI_HEADS_REGISTRY)]
    # A user's own backbone may support other depths and norms.
    if backbones[model.BACKBONE.NAME].__module__.startswith(("detectron2.", "mocodet.")):
        yield "MODEL.RESNETS.DEPTH", resnets.DEPTH, RESNET_DEPTHS
        yield "MODEL.RESNETS.NORM", resnets.NORM, NORMS
        yield "MODEL.FPN.NORM", model.FPN.NORM, NORMS
    yield "INPUT.FORMAT", cfg.INPUT.FORMAT, FORMATS
    yield "INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT, ("polygon", "bitmask")
    yield "INPUT.MIN_SIZE_TRAIN_SAMPLING", cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range")


def _check_steps(cfg: CfgNode) -> None:
    """Check the iterations at which the learning rate decreases. The other schedules have no steps."""
    steps = cfg.SOLVER.STEPS
    increasing = all(before < after for before, after in pairwise((0, *steps)))
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and not increasing:
        raise ValueError(f"SOLVER.STEPS is {tuple(steps)}; expected increasing iterations above 0, such as (60, 80)")


def _check_basic_blocks(cfg: CfgNode) -> None:
    """Check the settings without which detectron2 cannot build a ResNet-18 or -34."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in DEPTHS:
        return
    if resnets.RES2_OUT_CHANNELS != BASIC_CHANNELS:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}, but MODEL.RESNETS.RES2_OUT_CHANNELS is"
            f" {resnets.RES2_OUT_CHANNELS}; add  MODEL.RESNETS.RES2_OUT_CHANNELS {BASIC_CHANNELS}"
        )
    if resnets.RES5_DILATION != 1 and cfg.MODEL.BACKBONE.NAME != "build_resnet_dilated_c5_backbone":
        raise ValueError(
            f"MODEL.RESNETS.RES5_DILATION is {resnets.RES5_DILATION}, which only dilated C5 supports for a"
            f" ResNet-{resnets.DEPTH}; add  MODEL.RESNETS.RES5_DILATION 1"
        )


def _check_channels(cfg: CfgNode) -> None:
    """Check that the pixel mean and deviation have one number for each image channel."""
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != channels:
            numbers = "one number" if channels == 1 else "three numbers"
            raise ValueError(
                f"MODEL.{key} has {len(cfg.MODEL[key])} numbers, {list(cfg.MODEL[key])}, but images of INPUT.FORMAT"
                f" {cfg.INPUT.FORMAT} have {channels} channel{'s' * (channels > 1)}; set MODEL.{key} to {numbers}"
            )


def check_augmentation(cfg: CfgNode) -> None:
    """Check that the training augmentation has valid sizes and ranges, and that the model uses them.

    Raises:
        ValueError: ``INPUT.SCALE_RANGE`` is not a range, or is set for a model that does not use it;
            ``INPUT.CROP.SIZE`` is not valid for ``INPUT.CROP.TYPE``.
    """
    scale, crop, kind = tuple(cfg.INPUT.SCALE_RANGE), cfg.INPUT.CROP, cfg.INPUT.CROP.TYPE
    if scale and cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor":
        raise ValueError(
            "INPUT.SCALE_RANGE is supported only for a SemanticSegmentor, but MODEL.META_ARCHITECTURE is"
            f" {cfg.MODEL.META_ARCHITECTURE}; use INPUT.MIN_SIZE_TRAIN and set INPUT.SCALE_RANGE to ()"
        )
    if scale and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
        raise ValueError(
            f"INPUT.SCALE_RANGE must be two positive ratios, the smaller first, such as (0.5, 2.0), got {scale}"
        )
    if not crop.ENABLED:
        return
    if kind in ("absolute", "absolute_range"):
        wanted, fits = "positive integers, such as [513, 513]", [isinstance(n, int) and n > 0 for n in crop.SIZE]
    elif kind in ("relative", "relative_range"):
        wanted, fits = "fractions above 0 and at most 1, such as [0.9, 0.9]", [0 < n <= 1 for n in crop.SIZE]
    else:
        raise ValueError(f"INPUT.CROP.TYPE must be absolute, absolute_range, relative or relative_range, got {kind!r}")
    if fits != [True, True]:
        raise ValueError(
            f"INPUT.CROP.SIZE must be two {wanted} (height and width) when INPUT.CROP.TYPE is {kind}; got"
            f" {list(crop.SIZE)}"
        )


def check_batch(cfg: CfgNode) -> None:
    """Check that the batch can be divided equally among the processes and their micro-batches.

    Raises:
        ValueError: the batch cannot be divided; the message suggests a valid size.
    """
    workers, micro_batches = comm.get_world_size(), cfg.MOCO.ACCUMULATION
    if micro_batches < 1:
        raise ValueError(f"MOCO.ACCUMULATION must be at least 1 (no accumulation), got {micro_batches}")
    if cfg.SOLVER.IMS_PER_BATCH < 1 or cfg.SOLVER.IMS_PER_BATCH % (workers * micro_batches):
        among = f"{workers} processes" + (f" with {micro_batches} micro-batches each" if micro_batches > 1 else "")
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {among}; choose a multiple of"
            f" {workers * micro_batches}"
        )


def check_labels(cfg: CfgNode) -> None:
    """Check the fraction of the labels to train on, and the schedule in passes over the images.

    Raises:
        ValueError: a value is out of range, or the run would ignore it.
    """
    moco = cfg.MOCO
    if not 0 < moco.TRAIN_FRACTION <= 1:
        raise ValueError(f"MOCO.TRAIN_FRACTION must be above 0 and at most 1 (all labels), got {moco.TRAIN_FRACTION}")
    for key in ("FRACTION_SEED", "PASSES", "MIN_ITERS"):
        if moco[key] < 0:
            raise ValueError(f"MOCO.{key} must not be negative, got {moco[key]}")
    if moco.MIN_ITERS and not moco.PASSES:
        raise ValueError(
            f"MOCO.MIN_ITERS {moco.MIN_ITERS} is the minimum length of a schedule in passes, but MOCO.PASSES is 0; set"
            " MOCO.PASSES, or set SOLVER.MAX_ITER and remove MOCO.MIN_ITERS"
        )
    if moco.PASSES and cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(
            f"MOCO.PASSES scales the schedule, but SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}; set it to at least 1"
        )
    if (moco.PASSES or moco.TRAIN_FRACTION < 1) and is_densepose(cfg):
        raise ValueError("MOCO.TRAIN_FRACTION and MOCO.PASSES have no effect on DensePose's own loader; remove them")
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if moco.TRAIN_FRACTION < 1 and sampler.startswith("Weighted"):
        raise ValueError(
            f"MOCO.TRAIN_FRACTION {moco.TRAIN_FRACTION:g} cannot be combined with DATALOADER.SAMPLER_TRAIN {sampler},"
            " which weights complete data sets; use TrainingSampler or RepeatFactorTrainingSampler"
        )


def check_weights(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Check the file in ``MODEL.WEIGHTS``, unless it is a URL or the run resumes from its own checkpoint.

    Raises:
        FileNotFoundError: the file does not exist. For MoCo weights, the message includes the two commands that create
            them.
        ValueError: the file is damaged, or belongs to a network for images with different channels.
    """
    weights, path = cfg.MODEL.WEIGHTS, weights_file(cfg.MODEL.WEIGHTS)
    if path is None or (resume and holds_checkpoint(cfg.OUTPUT_DIR)):
        return
    if path.is_file():
        check_channels_of_weights(cfg, path)
        return
    remedy = "specify an existing file"
    if path.suffix == ".pkl" and not eval_only:  # converted weights; any other kind must already exist
        recipe = recipe_for(cfg.MODEL.RESNETS.DEPTH)
        remedy = MAKE_WEIGHTS.format(weights=path, recipe=recipe, name=path.stem)
    raise FileNotFoundError(f"MODEL.WEIGHTS is {weights}, which does not exist; {remedy}")


def check_channels_of_weights(cfg: CfgNode, file: Path, read: Callable[[Path], Settings] = settings_of) -> None:
    """Check that the weights belong to a network for the images of ``INPUT.FORMAT``.

    Args:
        cfg: the config of the run.
        file: the existing file that ``MODEL.WEIGHTS`` refers to.
        read: reads the settings of weights.

    Raises:
        ValueError: the file is damaged, or belongs to a network for images with different channels.
    """
    with errors_about(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}"):
        refuse_other_format(read(file), cfg.INPUT.FORMAT)


def recipe_for(depth: int) -> str:
    """Return the recipe for the user's own images (docs/small_scale.md) that trains a ResNet with ``depth`` layers."""
    recipe = "own_images_R_18.yaml" if depth < 50 else "own_images_R_50.yaml"
    return recipe if depth in (18, 50) else f"{recipe} MODEL.ARCH resnet{depth}"


def check_datasets(cfg: CfgNode, *, training: bool) -> None:
    """Check that the data sets in ``cfg.DATASETS`` exist, are not empty, and fit the model.

    Data sets from ``MOCO.DATASETS`` are read completely. For other data sets, only the existence of the files and of
    the packages that read and evaluate them is checked. If their metadata lists no classes, they are also loaded.

    Args:
        cfg: the config of the run, with its ``MOCO.DATASETS`` registered.
        training: whether to check ``DATASETS.TRAIN`` in addition to ``DATASETS.TEST``.

    Raises:
        FileNotFoundError: files of a data set do not exist.
        ValueError: no data set is specified, a name is unknown, a data set is empty or malformed, a package is missing,
            the data sets have different classes, or they do not contain what the model learns or predicts.
    """
    if training and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; specify a data set to train on")
    if not training and not cfg.DATASETS.TEST:
        raise ValueError("--eval-only is set, but DATASETS.TEST is empty; specify a data set to evaluate on")
    own = {entry["NAME"] for entry in cfg.MOCO.DATASETS}
    to_train = cfg.DATASETS.TRAIN if training else ()
    names = list(dict.fromkeys([*to_train, *cfg.DATASETS.TEST]))
    check_names(cfg, names)
    semantic = predicts_pixels(cfg)
    for name in names:
        _check_annotations_suit(cfg, name, semantic)
    labelled = {}
    for name in names:
        if name not in own:
            _check_files(name)
            continue
        records = DatasetCatalog.get(name)
        _check_pixels(cfg, records)
        if semantic:
            labelled[name] = records
        elif name in to_train:
            _check_objects(cfg, name, records)
    for name in names:
        if cfg.MODEL.KEYPOINT_ON:
            _check_keypoints(cfg, name)
    if not is_densepose(cfg):  # the project merges the classes of its data sets when it reads them
        _check_classes(cfg, names, semantic)
    for name, records in labelled.items():  # the slowest check comes last, because it decodes the labels
        check_label_images(name, records, learned=name in to_train)


def check_names(cfg: CfgNode, names: Sequence[str]) -> None:
    """Check the entries of ``cfg.MOCO.DATASETS``, and that all ``names`` are defined, without reading any file.

    Raises:
        ValueError: an entry is malformed, or a name is unknown or not text.
    """
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(
            f"DATASETS contains {first_few([*map(repr, wrong)])}; expected the names of data sets as text, such as"
            " ('voc_2007_trainval',)"
        )
    own = {parse_dataset(entry).name for entry in cfg.MOCO.DATASETS}
    if unknown := [name for name in names if name not in own and name not in DatasetCatalog.list()]:
        raise ValueError(
            f"DATASETS contains {', '.join(unknown)}, which neither detectron2 nor MOCO.DATASETS defines; MOCO.DATASETS"
            f" defines {', '.join(sorted(own)) or 'no data set'}"
        )


def _kind(name: str) -> EvaluationKind | None:
    """Return the kind of a data set, or None, because a data set that is used only for training may have any type."""
    return KINDS.get(MetadataCatalog.get(name).get("evaluator_type"))


def _check_annotations_suit(cfg: CfgNode, name: str, semantic: bool) -> None:
    """Check that the data set contains what the model learns from: objects or label images."""
    kind = _kind(name)
    labels_alone = kind is not None and kind.has_label_images
    has_labels = labels_alone or bool(MetadataCatalog.get(name).get("sem_seg_root"))  # panoptic data sets have both
    if not (has_labels if semantic else not labels_alone):
        objects, labels = ("objects", "label images") if labels_alone else ("label images", "objects")
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} learns from {objects}, but data set {name} has"
            f" {labels}"
        )


def _check_files(name: str) -> None:
    """Check the packages, the folders and the kind-specific files of a data set that is not from ``MOCO.DATASETS``."""
    metadata, kind = MetadataCatalog.get(name), _kind(name)
    if kind:
        kind.check_packages(name)
    wanted = map(metadata.get, ("json_file", "image_root", "dirname", "image_dir", "gt_dir", "sem_seg_root"))
    if missing := [path for path in wanted if path and "://" not in path and not Path(path).exists()]:
        datasets = os.environ.get("DETECTRON2_DATASETS", "unset, so ./datasets")
        raise FileNotFoundError(
            f"data set {name}: {' and '.join(missing)} not found; add the missing files, for example with mocodet"
            f" prepare-data, or set the environment variable DETECTRON2_DATASETS (currently {datasets}) to the folder"
            " of detectron2's data sets"
        )
    if kind:
        kind.check_files(name)


def _check_pixels(cfg: CfgNode, records: Sequence[Mapping[str, Any]]) -> None:
    """Check that no image of known size is larger than the mapper accepts."""
    limit = cfg.INPUT.MAX_PIXELS
    for record in records:
        pixels = record.get("width", 0) * record.get("height", 0)
        if limit and pixels > limit:
            raise ImageTooLargeError(too_large(record["file_name"], pixels, limit))


def _check_objects(cfg: CfgNode, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Check that there are objects to train on, with the masks or keypoints that the model learns."""
    annotations = [annotation for record in records for annotation in record["annotations"]]
    if not annotations:
        where = MetadataCatalog.get(name).get("json_file") or MetadataCatalog.get(name).get("dirname")
        raise ValueError(f"data set {name}, {where}: none of its {len(records)} images has annotations to train on")
    objects = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
    if not objects:
        raise ValueError(
            f"data set {name}: all of its {len(annotations)} annotations are crowds (iscrowd 1), which are not used for"
            " training; set iscrowd to 0 for single objects"
        )
    for switch, key, what, remedy in (
        ("MASK_ON", "segmentation", "mask", ""),
        ("KEYPOINT_ON", "keypoints", "keypoints", "add keypoints (with visibility 0 if unknown) or "),
    ):
        bare = sum(key not in annotation for annotation in annotations)
        if cfg.MODEL[switch] and bare:
            raise ValueError(
                f"MODEL.{switch} is True, but {bare} of the {len(annotations)} annotations of data set {name} have no"
                f" {what}; {remedy}set MODEL.{switch} False"
            )
    needs_keypoints = cfg.MODEL.KEYPOINT_ON and cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE > 0
    if needs_keypoints and not any(any(annotation["keypoints"][2::3]) for annotation in objects):
        raise ValueError(
            f"MODEL.KEYPOINT_ON is True, but no keypoint of data set {name} has a visibility above 0, so"
            " MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE leaves no image to train on; label keypoints, or set"
            " MODEL.KEYPOINT_ON False"
        )
    # Crowds, whose masks COCO stores as run lengths, are not used for training.
    runs = [
        record["file_name"]
        for record in records
        for annotation in record["annotations"]
        if isinstance(annotation.get("segmentation"), dict) and not annotation.get("iscrowd", 0)
    ]
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and runs:
        raise ValueError(
            f"data set {name}: {len(runs)} of the {len(annotations)} annotations, such as one in {runs[0]}, have"
            f" run-length encoded masks in {MetadataCatalog.get(name).get('json_file')}, which INPUT.MASK_FORMAT"
            " polygon does not support; add  INPUT.MASK_FORMAT bitmask"
        )


def _check_keypoints(cfg: CfgNode, name: str) -> None:
    metadata, wanted = MetadataCatalog.get(name), cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    keypoints, classes = metadata.get("keypoint_names", ()), metadata.get("thing_classes", ())
    if not keypoints:
        fault = metadata.get("keypoint_fault", f"data set {name} has no keypoints")
        raise ValueError(f"MODEL.KEYPOINT_ON is True, but {fault}; set MODEL.KEYPOINT_ON False")
    if len(classes) != 1:
        raise ValueError(
            f"MODEL.KEYPOINT_ON is True, but data set {name} has {len(classes)} classes ({first_few(classes)}); a"
            " keypoint detector supports only one class"
        )
    if len(keypoints) != wanted:
        raise ValueError(
            f"data set {name} has {len(keypoints)} keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {wanted};"
            f" add  MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(keypoints)}"
        )


def _class_names(name: str, kind: str) -> Sequence[str]:
    """Return the classes of a data set. detectron2 reads those of a registered JSON file only when it is loaded."""
    if not MetadataCatalog.get(name).get(kind):
        DatasetCatalog.get(name)
    return MetadataCatalog.get(name).get(kind, ())


def _check_classes(cfg: CfgNode, names: Sequence[str], semantic: bool) -> None:
    """Check that the data sets have the classes that the model predicts, in the same order, and its ignored label."""
    kind, key = ("stuff_classes", "SEM_SEG_HEAD") if semantic else ("thing_classes", "ROI_HEADS")
    key = "RETINANET" if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else key
    wanted, classes = number_of_classes(cfg), {name: _class_names(name, kind) for name in names}
    first = names[0]
    for name, found in classes.items():
        if tuple(found) != tuple(classes[first]):
            raise ValueError(
                f"the data sets of one run must have the same classes in the same order: {first} has"
                f" {', '.join(classes[first])}; {name} has {', '.join(found)}"
            )
        if cfg.MODEL.META_ARCHITECTURE in WITH_CLASSES and len(found) != wanted:
            raise ValueError(
                f"data set {name} has {len(found)} classes, but MODEL.{key}.NUM_CLASSES is {wanted}; add "
                f" MODEL.{key}.NUM_CLASSES {len(found)}"
            )
        ignored, expected = MetadataCatalog.get(name).get("ignore_label"), cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        if semantic and ignored is None:
            raise ValueError(
                f"the metadata of data set {name} does not specify the label to ignore; set its ignore_label (the model"
                f" ignores {expected})"
            )
        if semantic and ignored != expected:
            raise ValueError(
                f"data set {name} ignores the label {ignored}, but MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {expected}; add "
                f" MODEL.SEM_SEG_HEAD.IGNORE_VALUE {ignored}"
            )
