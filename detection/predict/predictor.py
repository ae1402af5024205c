"""A trained detector or segmentation network, loaded once and called on images."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

from ..config import merged_config
from ..data.classes import Classes, classes_of, from_checkpoint, number_of_classes, numbered, predicts_pixels
from ..data.images import in_format
from ..data.registration import register_datasets
from ..densepose import uses_densepose
from ..modeling.build import build, fall_back_to_cpu
from ..training.checkpoint import CLASSES_KEY, MocoDetCheckpointer
from ..training.preflight import check_config

logger = logging.getLogger(__name__)

# These predict more than objects, which would be lost.
NOT_SUPPORTED = ("PanopticFPN", "ProposalNetwork")

# The prediction on an image: objects, or in semantic segmentation the class of each pixel, H x W, int64.
Prediction: TypeAlias = Instances | np.ndarray


@dataclass(frozen=True)
class Preparation:
    """Turns an image into the model's input, as in an evaluation."""

    augmentations: T.AugmentationList
    image_format: str  # as INPUT.FORMAT

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Return detectron2's dict of an image, H x W x 3, uint8, RGB.

        It has ``image``, C x H' x W', resized by ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, and ``height`` and
        ``width``, to which the model rescales its predictions.

        Raises:
            ValueError: the image is not of that form.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image must be an array H x W x 3 of uint8, RGB; got {' x '.join(map(str, image.shape))} of"
                f" {image.dtype}"
            )
        resized = T.AugInput(in_format(image, self.image_format))
        self.augmentations(resized)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}


class Predictor:
    """A trained detector or segmentation network, with the same predictions as in its evaluation.

    It runs on ``MODEL.DEVICE``, or on the CPU if that is CUDA and CUDA is not available.

    Args:
        config: the config that it was trained with: a file, such as ``OUTPUT_DIR/config.yaml``, the name of one of
            mocodet's own configs, or the config itself.
        weights: its checkpoint, or any other value of ``MODEL.WEIGHTS``.

    Attributes:
        cfg: the config.
        model: the network.
        classes: the classes that it predicts: those in its checkpoint, or without any those of the config's data sets.
        prepare: turns an image into an input of ``infer``.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the config is malformed, or its model predicts something other than objects or pixel classes; the
            checkpoint is damaged, or does not hold the whole model of the config.
    """

    def __init__(self, config: str | os.PathLike | CfgNode, weights: str | os.PathLike):
        self.cfg = _usable(config if isinstance(config, CfgNode) else read_config(str(config)))
        self.model = build(self.cfg).eval()
        kept = MocoDetCheckpointer(self.model, whole_detector=True).load(str(weights))
        self.classes = _find_classes(self.cfg, str(weights), kept)
        augmentations = T.AugmentationList(detection_utils.build_augmentation(self.cfg, is_train=False))
        self.prepare = Preparation(augmentations, self.cfg.INPUT.FORMAT)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict for images, each H x W x 3, uint8, RGB; they may differ in size.

        Images that differ in size are padded to one size, which moves predictions a little: an evaluation takes one
        image at a time.

        Returns:
            for each, of a detector: detectron2's ``Instances`` on the CPU, in pixels of the image; of a segmentation
            network: H x W, int64, the index of each pixel's class.

        Raises:
            ValueError: an image is not of that form.
        """
        return self.infer([self.prepare(image) for image in images])

    def infer(self, inputs: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Predict for images from ``prepare``; return the same as a call."""
        with torch.no_grad():
            outputs = self.model(list(inputs))
        if predicts_pixels(self.cfg):
            return [output["sem_seg"].argmax(dim=0).cpu().numpy() for output in outputs]
        return [output["instances"].to("cpu") for output in outputs]


def read_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config of a file and of ``KEY, VALUE, ...`` that override it.

    Raises:
        FileNotFoundError, ValueError: there is no such config, or it is malformed or DensePose's.
    """
    if uses_densepose(config_file):
        raise ValueError(f"{config_file} is a DensePose config; its surfaces need DensePose's own apply_net.py")
    cfg, _ = merged_config(config_file, opts)
    return cfg


def _usable(cfg: CfgNode) -> CfgNode:
    """Return a copy of a config that names an available device; see `Predictor` for errors."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE in NOT_SUPPORTED:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} does not predict objects or pixel classes;"
            " expected GeneralizedRCNN, RetinaNet or SemanticSegmentor"
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError("MODEL.LOAD_PROPOSALS: new images have no proposals; use a model that makes its own")
    if without_cuda := fall_back_to_cpu(cfg):
        logger.warning(without_cuda)
    check_config(cfg)
    cfg.freeze()
    return cfg


def _find_classes(cfg: CfgNode, weights: str, kept: Mapping[str, Any]) -> Classes:
    """Return the classes in a checkpoint, else those of the config's data sets, else numbers."""
    count = number_of_classes(cfg)
    classes = from_checkpoint(kept.get(CLASSES_KEY))
    if classes is not None and len(classes.names) == count:
        return classes
    register_datasets(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = _classes_of_dataset(cfg, name)
        if classes is not None and len(classes.names) == count:
            logger.info(f"{weights} does not name its classes; using those of data set {name}")
            return classes
    logger.warning(
        f"{weights} does not name its {count} classes, and no readable data set of the config does: they are called"
        f" {numbered(cfg).names[0]} and so on"
    )
    return numbered(cfg)


def _classes_of_dataset(cfg: CfgNode, name: str) -> Classes | None:
    if name not in DatasetCatalog.list():
        return None
    if (classes := classes_of(cfg, name)) is not None:
        return classes
    try:
        DatasetCatalog.get(name)  # COCO's names are in its file
    except (OSError, ValueError):  # it may be on another machine
        return None
    return classes_of(cfg, name)
