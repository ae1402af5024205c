"""A trained detector or segmentation network that is loaded once and called on images."""

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

# Architectures whose other predictions would be lost.
NOT_SUPPORTED = ("PanopticFPN", "ProposalNetwork")

# The prediction on an image: objects or, in semantic segmentation, the class of each pixel (H x W, int64).
Prediction: TypeAlias = Instances | np.ndarray


@dataclass(frozen=True)
class Preparation:
    """Converts an image to the model's input, as in an evaluation."""

    augmentations: T.AugmentationList
    image_format: str  # a value of INPUT.FORMAT

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Return detectron2's dict for an image (H x W x 3, uint8, RGB).

        The dict contains ``image`` (C x H' x W'), resized according to ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``,
        and ``height`` and ``width``, to which the model rescales its predictions.

        Raises:
            ValueError: the image does not have this form.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"an image must be an RGB array of H x W x 3 with type uint8; got {' x '.join(map(str, image.shape))}"
                f" with type {image.dtype}"
            )
        resized = T.AugInput(in_format(image, self.image_format))
        self.augmentations(resized)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}


class Predictor:
    """A trained detector or segmentation network, which gives the same predictions as in its evaluation.

    The model runs on ``MODEL.DEVICE``, or on the CPU if that is CUDA but CUDA is not available.

    Args:
        config: the config with which the model was trained: a file such as ``OUTPUT_DIR/config.yaml``, the name of one
            of mocodet's own configs, or the config itself.
        weights: the model's checkpoint, or any other value of ``MODEL.WEIGHTS``.

    Attributes:
        cfg: the config.
        model: the network.
        classes: the classes that the model predicts: those in its checkpoint or, if it contains none, those of the
            config's data sets.
        prepare: function that converts an image to an input of ``infer``.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: the config is malformed, its model predicts something other than objects or pixel classes, or the
            checkpoint is damaged or does not contain the complete model of the config.
    """

    def __init__(self, config: str | os.PathLike | CfgNode, weights: str | os.PathLike):
        if not str(weights):
            raise ValueError("the name of the weights is empty; expected the checkpoint of a model")
        self.cfg = _usable(config if isinstance(config, CfgNode) else read_config(str(config)))
        self.model = build(self.cfg).eval()
        kept = MocoDetCheckpointer(self.model, whole_detector=True).load(str(weights))
        self.classes = _find_classes(self.cfg, str(weights), kept)
        augmentations = T.AugmentationList(detection_utils.build_augmentation(self.cfg, is_train=False))
        self.prepare = Preparation(augmentations, self.cfg.INPUT.FORMAT)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict on images (H x W x 3, uint8, RGB), which may differ in size.

        Images that differ in size are padded to a common size, which changes the predictions slightly compared to an
        evaluation, which processes one image at a time.

        Returns:
            a prediction for each image. A detector returns detectron2's ``Instances`` on the CPU, in pixels of the
            image. A segmentation network returns the class index of each pixel (H x W, int64).

        Raises:
            ValueError: an image does not have this form.
        """
        return self.infer([self.prepare(image) for image in images])

    def infer(self, inputs: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Predict on images prepared by ``prepare``; return the same as ``__call__``."""
        with torch.no_grad():
            outputs = self.model(list(inputs))
        if predicts_pixels(self.cfg):
            return [output["sem_seg"].argmax(dim=0).cpu().numpy() for output in outputs]
        return [output["instances"].to("cpu") for output in outputs]


def read_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config from a file with ``KEY, VALUE, ...`` overrides.

    Raises:
        FileNotFoundError, ValueError: the config does not exist, is malformed, or is a DensePose config.
    """
    if uses_densepose(config_file):
        raise ValueError(
            f"{config_file} is a DensePose config, which is not supported; use DensePose's own apply_net.py"
        )
    cfg, _ = merged_config(config_file, opts)
    return cfg


def _usable(cfg: CfgNode) -> CfgNode:
    """Return a copy of a config with an available device; see `Predictor` for errors."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE in NOT_SUPPORTED:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} does not predict objects or pixel classes;"
            " expected GeneralizedRCNN, RetinaNet or SemanticSegmentor"
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            "MODEL.LOAD_PROPOSALS is not supported, because new images have no proposals; use a model that computes its"
            " own"
        )
    if without_cuda := fall_back_to_cpu(cfg):
        logger.warning(without_cuda)
    check_config(cfg)
    cfg.freeze()
    return cfg


def _find_classes(cfg: CfgNode, weights: str, kept: Mapping[str, Any]) -> Classes:
    """Return the classes in a checkpoint, or else those of the config's data sets, or else numbered classes."""
    count = number_of_classes(cfg)
    classes = from_checkpoint(kept.get(CLASSES_KEY))
    if classes is not None and len(classes.names) == count:
        return classes
    register_datasets(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = _classes_of_dataset(cfg, name)
        if classes is not None and len(classes.names) == count:
            logger.info(f"{weights} does not contain its class names; using those of data set {name}")
            return classes
    logger.warning(
        f"{weights} does not contain the names of its {count} classes, and neither does any readable data set of the"
        f" config; they are named {numbered(cfg).names[0]} and so on"
    )
    return numbered(cfg)


def _classes_of_dataset(cfg: CfgNode, name: str) -> Classes | None:
    if name not in DatasetCatalog.list():
        return None
    if (classes := classes_of(cfg, name)) is not None:
        return classes
    try:
        DatasetCatalog.get(name)  # COCO's class names are in its annotation file
    except (OSError, ValueError):  # the data set may be on another machine
        return None
    return classes_of(cfg, name)
