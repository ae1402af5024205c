"""A trained detector or segmentation network, loaded once and called on images."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

from mocodet.common.config.merge import merge_config

from ..config import add_moco_config
from ..data.classes import Classes, classes_of, from_checkpoint, number_of_classes, numbered, predicts_pixels
from ..data.images import in_format
from ..data.registration import register_datasets
from ..densepose import uses_densepose
from ..modeling.build import build, fall_back_to_cpu
from ..training.checkpoint import CLASSES_KEY, MocoDetCheckpointer
from ..training.preflight import check_config

logger = logging.getLogger(__name__)

# What these predict besides objects would be lost.
NOT_SUPPORTED = ("PanopticFPN", "ProposalNetwork")

# What is found in an image: objects, or of semantic segmentation the class of each pixel, H x W, int64.
Prediction: TypeAlias = Instances | np.ndarray


@dataclass(frozen=True)
class Preparation:
    """Makes of an image what the model takes, as in an evaluation."""

    augmentations: T.AugmentationList
    image_format: str  # as INPUT.FORMAT

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Return detectron2's dict of an image, H x W x 3, uint8, RGB.

        It has ``image``, C x H' x W', resized by ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, and ``height`` and
        ``width``, to which the model brings its predictions back.

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
    """A trained detector or segmentation network that predicts what an evaluation of it predicts.

    It runs on ``MODEL.DEVICE``, or where that is CUDA and not available on the CPU.

    Args:
        config: what it was trained with: a file, such as ``OUTPUT_DIR/config.yaml``, the name of one of mocodet's own
            configs, or a config itself.
        weights: its checkpoint, or what else ``MODEL.WEIGHTS`` may be.

    Attributes:
        cfg: the config.
        model: the network.
        classes: what it predicts: those that its checkpoint names; without any those of the config's data sets.
        prepare: makes of an image what ``infer`` takes.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the config is malformed, or is of a model that predicts something else than objects or pixels; the
            checkpoint is damaged, or is not of the whole model that the config describes.
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
        """Predict for images that ``prepare`` has made; returns as a call."""
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
        raise ValueError(f"{config_file} is of DensePose, whose surfaces need its own apply_net.py")
    cfg = get_cfg()
    add_moco_config(cfg)
    merge_config(cfg, config_file, opts)
    return cfg


def _usable(cfg: CfgNode) -> CfgNode:
    """Return a copy of a config that names a device that is there; see `Predictor` for what is refused."""
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.META_ARCHITECTURE in NOT_SUPPORTED:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} predicts something else than objects or pixels;"
            " expected GeneralizedRCNN, RetinaNet or SemanticSegmentor"
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError("MODEL.LOAD_PROPOSALS, but new images have no proposals; use a model that makes its own")
    if without_cuda := fall_back_to_cpu(cfg):
        logger.warning(without_cuda)
    check_config(cfg)
    cfg.freeze()
    return cfg


def _find_classes(cfg: CfgNode, weights: str, kept: Mapping[str, Any]) -> Classes:
    """Return the classes that a checkpoint keeps, else those of the config's data sets, else numbers."""
    count = number_of_classes(cfg)
    classes = from_checkpoint(kept.get(CLASSES_KEY))
    if classes is not None and len(classes.names) == count:
        return classes
    register_datasets(cfg)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = _classes_of_dataset(cfg, name)
        if classes is not None and len(classes.names) == count:
            logger.info(f"{weights} does not name its classes; taking those of data set {name}")
            return classes
    logger.warning(
        f"{weights} does not name its {count} classes, and no data set of the config can be read that does: they are"
        f" called {numbered(cfg).names[0]} and so on"
    )
    return numbered(cfg)


def _classes_of_dataset(cfg: CfgNode, name: str) -> Classes | None:
    if name not in DatasetCatalog.list():
        return None
    if (classes := classes_of(cfg, name)) is not None:
        return classes
    try:
        DatasetCatalog.get(name)  # COCO's names stand in its file
    except (OSError, ValueError):  # it may be on another machine
        return None
    return classes_of(cfg, name)
