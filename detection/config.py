"""The keys that the plugin adds to a detectron2 config, and configs that have them."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from mocodet.common.config.merge import merge_config
from mocodet.common.formats import MAX_PIXELS

from .densepose import add_densepose_keys


def merged_config(config_file: str, opts: Sequence[str] = ()) -> tuple[CfgNode, Path]:
    """Return the config of a file and of ``KEY, VALUE, ...`` that override it, not frozen, and the file's path.

    Args:
        config_file: a path, or the name of one of mocodet's own configs.
        opts: the overrides.

    Raises:
        OSError, ValueError: see `add_densepose_keys` and `merge_config`.
    """
    cfg = get_cfg()
    add_moco_config(cfg)
    add_densepose_keys(cfg, config_file)
    return cfg, merge_config(cfg, config_file, opts)


def add_moco_config(cfg: CfgNode) -> None:
    """Add the plugin's keys, with their defaults, to a detectron2 config (in place)."""
    cfg.MODEL.DILATED_C5 = CfgNode()
    # Channels of the 3x3 convolution that the dilated-C5 backbone appends to res5.
    cfg.MODEL.DILATED_C5.OUT_CHANNELS = 512

    # FCNHead: the 3x3 convolutions before the classifier, and their dilation.
    cfg.MODEL.SEM_SEG_HEAD.NUM_CONVS = 2
    cfg.MODEL.SEM_SEG_HEAD.DILATION = 6
    # Semantic segmentation: training images are scaled by a random ratio between these two, such as (0.5, 2.0), before
    # they are cropped (INPUT.CROP). Empty: they are resized by INPUT.MIN_SIZE_TRAIN, as for detectors.
    cfg.INPUT.SCALE_RANGE = ()

    # Images with more pixels are refused: Pillow's limit against files designed to fill the memory. 0: no limit.
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS

    # Seconds that processes wait for another one; then the run ends with an error that names it.
    cfg.COLLECTIVE_TIMEOUT = 600
    # Checkpoints to keep beside model_final.pth; older ones are deleted.
    cfg.SOLVER.CHECKPOINTS_KEPT = 3
    # Older ones are also kept if they fall on a multiple of this many SOLVER.CHECKPOINT_PERIODs. 0: none, 1: all.
    cfg.SOLVER.CHECKPOINTS_KEPT_EVERY = 0

    cfg.MOCO = CfgNode()
    # List of data sets to register, as mappings. Pascal VOC layout:
    #   {NAME: ..., KIND: voc, ROOT: folder that holds Annotations/ ImageSets/ JPEGImages/, SPLIT: file name in
    #    ImageSets/Main without .txt, CLASSES: [...] (objects of others are left out), YEAR: 2007 or 2012 (which AP to
    #    compute; default 2007)}. Images may be of any format that Pillow reads.
    # COCO JSON:
    #   {NAME: ..., KIND: coco, JSON: annotation file, IMAGES: folder, CLASSES: [...] (optional: which categories,
    #    in which order; others are left out)}
    # Images with label images, for semantic segmentation:
    #   {NAME: ..., KIND: semseg, IMAGES: folder, LABELS: folder of PNGs whose values are class indices, CLASSES: [...],
    #    SPLIT: file with one image name per line (default: every image in the folder), IGNORE: label of
    #    pixels that are neither learned nor evaluated (default 255)}
    # On the command line: MOCO.DATASETS "[{'NAME': 'mine_train', 'KIND': 'voc', 'ROOT': ..., ...}]"
    cfg.MOCO.DATASETS = []
    # Number type with SOLVER.AMP.ENABLED: "bfloat16" (CPU and GPU) or "float16" (GPU; scales the loss).
    cfg.MOCO.AMP_DTYPE = "bfloat16"
    # Number of micro-batches whose gradients make one update: SOLVER.IMS_PER_BATCH / ACCUMULATION images are in memory
    # at a time, divided among the processes. Batch norm sees the images of one micro-batch.
    cfg.MOCO.ACCUMULATION = 1

    # Few labels: the part of the images of DATASETS.TRAIN to train on, above 0 and up to 1, and its seed. Only the seed
    # determines the images, so every initialisation has the same. Larger parts contain smaller ones, and each part has
    # an image of every class that occurs in the whole.
    cfg.MOCO.TRAIN_FRACTION = 1.0
    cfg.MOCO.FRACTION_SEED = 0
    # A schedule in passes over the images: SOLVER.MAX_ITER becomes the number of iterations that PASSES takes, at least
    # MIN_ITERS, and steps, warm-up and periods change in proportion. 0: SOLVER.MAX_ITER is unchanged.
    cfg.MOCO.PASSES = 0
    cfg.MOCO.MIN_ITERS = 0
