"""Adds the plugin's keys to detectron2 configs, and reads configs that use them."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from mocodet.common.config.merge import merge_config
from mocodet.common.formats import MAX_PIXELS

from .densepose import add_densepose_keys


def merged_config(config_file: str, opts: Sequence[str] = ()) -> tuple[CfgNode, Path]:
    """Return the unfrozen config from a file with ``KEY, VALUE, ...`` overrides, and the file's path.

    Args:
        config_file: path of a config file, or the name of one of mocodet's own configs.
        opts: the overrides, as alternating keys and values.

    Raises:
        OSError, ValueError: see `add_densepose_keys` and `merge_config`.
    """
    cfg = get_cfg()
    add_moco_config(cfg)
    add_densepose_keys(cfg, config_file)
    return cfg, merge_config(cfg, config_file, opts)


def add_moco_config(cfg: CfgNode) -> None:
    """Add the plugin's keys and their defaults to a detectron2 config (in place)."""
    cfg.MODEL.DILATED_C5 = CfgNode()
    # Number of output channels of the 3x3 convolution that the dilated-C5 backbone appends to res5.
    cfg.MODEL.DILATED_C5.OUT_CHANNELS = 512

    # FCNHead: number of 3x3 convolutions before the classifier, and their dilation.
    cfg.MODEL.SEM_SEG_HEAD.NUM_CONVS = 2
    cfg.MODEL.SEM_SEG_HEAD.DILATION = 6
    # Semantic segmentation: range of the random ratio by which training images are scaled before they are cropped
    # (INPUT.CROP), such as (0.5, 2.0). If empty, images are resized according to INPUT.MIN_SIZE_TRAIN, as for
    # detectors.
    cfg.INPUT.SCALE_RANGE = ()

    # Images with more pixels raise an error. The default is Pillow's limit, which protects against files designed to
    # exhaust memory. 0 means no limit.
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS

    # Time in seconds that processes wait for another process before the run ends with an error that names that process.
    cfg.COLLECTIVE_TIMEOUT = 600
    # Number of checkpoints to keep in addition to model_final.pth. Older checkpoints are deleted.
    cfg.SOLVER.CHECKPOINTS_KEPT = 3
    # Also keep older checkpoints at multiples of this many SOLVER.CHECKPOINT_PERIODs. 0 keeps no older checkpoint, 1
    # keeps all.
    cfg.SOLVER.CHECKPOINTS_KEPT_EVERY = 0

    cfg.MOCO = CfgNode()
    # Data sets to register, as a list of mappings. For the Pascal VOC layout:
    #   {NAME: ..., KIND: voc, ROOT: folder with Annotations/, ImageSets/ and JPEGImages/, SPLIT: file name in
    #    ImageSets/Main without .txt, CLASSES: [...] (objects of other classes are ignored), YEAR: 2007 or 2012 (the
    #    definition of AP; default 2007)}. Images may be in any format that Pillow supports.
    # For COCO JSON:
    #   {NAME: ..., KIND: coco, JSON: annotation file, IMAGES: folder, CLASSES: [...] (optional: the categories to use,
    #    in order; others are ignored)}
    # For semantic segmentation, with images and label images:
    #   {NAME: ..., KIND: semseg, IMAGES: folder, LABELS: folder of PNGs with class indices as values, CLASSES: [...],
    #    SPLIT: file that lists one image name per line (default: all images in the folder), IGNORE: label of pixels
    #    that are excluded from training and evaluation (default 255)}
    # On the command line: MOCO.DATASETS "[{'NAME': 'mine_train', 'KIND': 'voc', 'ROOT': ..., ...}]"
    cfg.MOCO.DATASETS = []
    # Data type used with SOLVER.AMP.ENABLED: "bfloat16" (CPU and GPU) or "float16" (GPU only, with loss scaling).
    cfg.MOCO.AMP_DTYPE = "bfloat16"
    # Number of micro-batches whose gradients are accumulated for each update. SOLVER.IMS_PER_BATCH / ACCUMULATION
    # images are in memory at a time, divided among the processes. Batch norm computes its statistics over one
    # micro-batch.
    cfg.MOCO.ACCUMULATION = 1

    # Training with few labels: the fraction of the images of DATASETS.TRAIN to train on (above 0, at most 1), and the
    # seed of the selection. The selection depends only on the seed, so every initialisation is trained on the same
    # images. Larger fractions contain smaller ones, and each fraction includes an image of every class that occurs in
    # the data.
    cfg.MOCO.TRAIN_FRACTION = 1.0
    cfg.MOCO.FRACTION_SEED = 0
    # Length of the schedule in passes over the images. SOLVER.MAX_ITER becomes the number of iterations for PASSES
    # passes, but at least MIN_ITERS. Steps, warm-up and periods change in proportion. If PASSES is 0, SOLVER.MAX_ITER
    # is unchanged.
    cfg.MOCO.PASSES = 0
    cfg.MOCO.MIN_ITERS = 0
