"""The keys of a pre-training config. Recipes are YAML files under ``configs/pretrain/`` that change some of them."""

from collections.abc import Callable
from functools import reduce

from fvcore.common.config import CfgNode

from mocodet.common.encoders.resnet import ARCHITECTURES

from .data.views import AUGMENTATIONS
from .methods.heads import HEADS

METHODS = ("moco", "end_to_end", "memory_bank", "supervised")

_C = CfgNode()

# What is learned: by contrast, "moco" (queue and momentum encoder), "end_to_end" (keys of the same batch) or
# "memory_bank" (a vector of each image); or "supervised", classes.
_C.METHOD = "moco"
# Where checkpoints, metrics.json and TensorBoard events go.
_C.OUTPUT_DIR = "./output/pretrain"
# Seed of initialisation, image order, augmentation and Shuffling BN. Negative: drawn at the start and logged.
_C.SEED = 0
# Iterations between two lines of the log.
_C.LOG_PERIOD = 20

_C.DATA = CfgNode()
# Folder of training images, searched to any depth; class folders are ignored, but for METHOD "supervised".
_C.DATA.ROOT = ""
# Instead of ROOT, for data sets too large to list: WebDataset shards (docs/shards.md).
_C.DATA.SHARDS = ""
# Images of shards that are read ahead and shuffled with one another, for each process (at most 0.75 GiB of them).
_C.DATA.SHUFFLE_BUFFER = 10000
# METHOD "supervised": iNaturalist's JSON of training images, relative to ROOT; "": ROOT holds one folder for a class.
_C.DATA.ANNOTATIONS = ""
# METHOD "supervised": validation split, a folder or folder and JSON likewise; "": none.
_C.DATA.VAL_ROOT = ""
_C.DATA.VAL_ANNOTATIONS = ""
# Processes that decode and augment, for each training process. 0: the training process does it itself.
_C.DATA.NUM_WORKERS = 4

_C.AUGMENTATION = CfgNode()
# "moco_v1", "moco_v2" or "supervised" (recipes in pretrain/data/views.py).
_C.AUGMENTATION.NAME = "moco_v2"
# Side of the square crop, in pixels.
_C.AUGMENTATION.CROP_SIZE = 224
# Smallest area of a crop, as a fraction of the image's.
_C.AUGMENTATION.MIN_SCALE = 0.2

_C.MODEL = CfgNode()
# "auto" (CUDA when there, else CPU), "cuda" or "cpu".
_C.MODEL.DEVICE = "auto"
# resnet18, resnet34, resnet50, resnet101, resnet152, resnet50w2, resnet50w4 (all layers twice, four times as wide),
# resnext50_32x8d and the others of common/resnet.py.
_C.MODEL.ARCH = "resnet50"
# For images of 32 to 64 pixels: a first convolution of 3x3 and stride 1, and no max-pooling. detectron2's ResNet has
# no such stem: these weights do not convert.
_C.MODEL.SMALL_STEM = False
# Checkpoint to start the backbone from, any that the converter reads; "": random weights. METHOD "supervised" only.
_C.MODEL.WEIGHTS = ""
# Projection head: "fc" (MoCo v1) or "mlp" (MoCo v2).
_C.MODEL.HEAD = "mlp"
# Dimension C of queries and keys.
_C.MODEL.DIM = 128
# Groups in which each process normalises its batch, statistics apart, as so many devices would. One group is enough
# when there are several processes; with one process it makes Shuffling BN void. 0: one group with several processes,
# eight with one, so that one GPU sees the statistics of the paper's eight.
_C.MODEL.BN_GROUPS = 0
# Store images and weights with the channels innermost; convolutions are faster so, on CUDA and CPU.
_C.MODEL.CHANNELS_LAST = True

_C.CONTRAST = CfgNode()
# METHOD "moco": K, the number of keys in the queue.
_C.CONTRAST.QUEUE_SIZE = 65536
# METHOD "moco": m of the momentum update of the key encoder.
_C.CONTRAST.MOMENTUM = 0.999
# METHOD "memory_bank": K, the number of negatives sampled from the bank.
_C.CONTRAST.NUM_NEGATIVES = 65536
# METHOD "memory_bank": momentum of an entry when its image is seen.
_C.CONTRAST.BANK_MOMENTUM = 0.5
# METHODs "moco" and "end_to_end": Shuffling BN. False only to show what it is for.
_C.CONTRAST.SHUFFLE_BN = True
# tau of InfoNCE: 0.07 in MoCo v1, 0.2 in v2.
_C.CONTRAST.TEMPERATURE = 0.2

# The k-nearest-neighbours monitor: how well the features of the encoder that is trained tell classes apart.
_C.KNN = CfgNode()
# Folders with one folder for a class: reference images and the ones to be classified. Both "": no monitor.
_C.KNN.TRAIN_ROOT = ""
_C.KNN.VAL_ROOT = ""
# Iterations between two measurements. 0: one at the end of each epoch.
_C.KNN.PERIOD = 0
# Neighbours, and temperature of their votes (Wu et al., CVPR 2018).
_C.KNN.K = 200
_C.KNN.TEMPERATURE = 0.07

_C.SOLVER = CfgNode()
# Images in a batch, over all processes.
_C.SOLVER.IMS_PER_BATCH = 256
_C.SOLVER.MAX_EPOCHS = 200
# Length of the run in iterations instead of epochs. 0: MAX_EPOCHS.
_C.SOLVER.MAX_ITER = 0
# Learning rate for this batch size.
_C.SOLVER.BASE_LR = 0.03
# "step" (times GAMMA at each of STEPS), "cosine" (set anew at the start of each epoch), or "decay" (times GAMMA after
# every DECAY_PERIOD iterations).
_C.SOLVER.LR_SCHEDULE = "cosine"
# Epochs at which "step" multiplies the rate by GAMMA.
_C.SOLVER.STEPS = (120, 160)
_C.SOLVER.GAMMA = 0.1
_C.SOLVER.DECAY_PERIOD = 62500
# Momentum of SGD (not of the key encoder).
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.WEIGHT_DECAY = 1e-4
# Arithmetic of the encoders: "float32", "bfloat16", "float16" (CUDA only), or "auto": reduced precision where the
# device computes in it natively, float32 elsewhere. Logits and loss are float32 always.
_C.SOLVER.PRECISION = "auto"
# Iterations between checkpoints. 0: one at the end of each epoch.
_C.SOLVER.CHECKPOINT_PERIOD = 0
# How many checkpoints to keep beside model_final.pth; older ones are deleted.
_C.SOLVER.CHECKPOINTS_KEPT = 3


def get_cfg() -> CfgNode:
    """Return a fresh copy of the default config."""
    return _C.clone()


def validate(cfg: CfgNode) -> None:
    """Refuse values that no recipe can mean.

    Raises:
        ValueError: naming the key, what was found and what was expected.
    """

    def require(good: bool, key: str, found: object, expected: str) -> None:
        if not good:
            raise ValueError(f"{key} is {found!r}; expected {expected}")

    def one_of(key: str, found: str, *choices: str) -> None:
        require(found in choices, key, found, "one of " + ", ".join(map(repr, choices)))

    one_of("METHOD", cfg.METHOD, *METHODS)
    one_of("AUGMENTATION.NAME", cfg.AUGMENTATION.NAME, *AUGMENTATIONS)
    one_of("MODEL.DEVICE", cfg.MODEL.DEVICE, "auto", "cuda", "cpu")
    one_of("MODEL.ARCH", cfg.MODEL.ARCH, *ARCHITECTURES)
    one_of("MODEL.HEAD", cfg.MODEL.HEAD, *HEADS)
    one_of("SOLVER.LR_SCHEDULE", cfg.SOLVER.LR_SCHEDULE, "step", "cosine", "decay")
    one_of("SOLVER.PRECISION", cfg.SOLVER.PRECISION, "auto", "float32", "bfloat16", "float16")
    require(0 < cfg.AUGMENTATION.MIN_SCALE <= 1, "AUGMENTATION.MIN_SCALE", cfg.AUGMENTATION.MIN_SCALE, "within (0, 1]")
    for key in ("MOMENTUM", "BANK_MOMENTUM"):
        require(0 <= cfg.CONTRAST[key] <= 1, f"CONTRAST.{key}", cfg.CONTRAST[key], "a number within [0, 1]")
    for node, key in ((cfg.CONTRAST, "CONTRAST.TEMPERATURE"), (cfg.KNN, "KNN.TEMPERATURE")):
        require(node.TEMPERATURE > 0, key, node.TEMPERATURE, "a positive number")
    at_least_one = ("AUGMENTATION.CROP_SIZE", "MODEL.DIM", "CONTRAST.QUEUE_SIZE", "CONTRAST.NUM_NEGATIVES",
                    "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_EPOCHS", "SOLVER.DECAY_PERIOD", "SOLVER.CHECKPOINTS_KEPT",
                    "DATA.SHUFFLE_BUFFER", "KNN.K", "LOG_PERIOD")  # fmt: skip
    not_negative = ("MODEL.BN_GROUPS", "DATA.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.BASE_LR",
                    "SOLVER.GAMMA", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY", "SOLVER.MAX_ITER",
                    "KNN.PERIOD")  # fmt: skip
    for keys, least in ((at_least_one, 1), (not_negative, 0)):
        for key in keys:
            found = reduce(lambda node, part: node[part], key.split("."), cfg)
            require(found >= least, key, found, f"at least {least}")
    steps = list(cfg.SOLVER.STEPS)
    require(steps == sorted(set(steps)), "SOLVER.STEPS", cfg.SOLVER.STEPS, "epochs in rising order")
    _validate_data(cfg, require)
    # A cosine or steps that were cut off, or stretched, would be another recipe than the config says.
    by_iterations = cfg.SOLVER.MAX_ITER == 0 or cfg.SOLVER.LR_SCHEDULE == "decay"
    require(by_iterations, "SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, "0 with a schedule of epochs (step, cosine)")


# Keys that only some METHODs read.
READ_BY = {
    "MODEL.HEAD": ("moco", "end_to_end", "memory_bank"),
    "MODEL.DIM": ("moco", "end_to_end", "memory_bank"),
    "MODEL.BN_GROUPS": ("moco", "end_to_end", "memory_bank"),
    "CONTRAST.TEMPERATURE": ("moco", "end_to_end", "memory_bank"),
    "CONTRAST.QUEUE_SIZE": ("moco",),
    "CONTRAST.MOMENTUM": ("moco",),
    "CONTRAST.NUM_NEGATIVES": ("memory_bank",),
    "CONTRAST.BANK_MOMENTUM": ("memory_bank",),
    "CONTRAST.SHUFFLE_BN": ("moco", "end_to_end"),
}


def unused(cfg: CfgNode) -> list[str]:
    """Return what was set and does nothing, as ``KEY value``: keys of other METHODs, steps after the end of the run."""
    found = []
    for key, methods in READ_BY.items():
        value, default = (reduce(lambda node, part: node[part], key.split("."), node) for node in (cfg, _C))
        if value != default and cfg.METHOD not in methods:
            found.append(f"{key} {value} (read by METHOD {', '.join(methods)})")
    late = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_EPOCHS]
    if cfg.SOLVER.LR_SCHEDULE == "step" and late:
        found.append(f"SOLVER.STEPS {', '.join(map(str, late))} (SOLVER.MAX_EPOCHS is {cfg.SOLVER.MAX_EPOCHS})")
    return found


def _validate_data(cfg: CfgNode, require: Callable[[bool, str, object, str], None]) -> None:
    root, shards, supervised = cfg.DATA.ROOT, cfg.DATA.SHARDS, cfg.METHOD == "supervised"
    require(root != "" or shards != "", "DATA.ROOT", root, "a folder of images, for example DATA.ROOT imagenet/train")
    require(root == "" or shards == "", "DATA.SHARDS", shards, f"'' beside DATA.ROOT {root!r}; give one of the two")
    streams = cfg.METHOD in ("moco", "end_to_end")
    require(shards == "" or streams, "DATA.SHARDS", shards, f"'': METHOD {cfg.METHOD!r} needs a folder, DATA.ROOT")
    for key in ("ANNOTATIONS", "VAL_ROOT", "VAL_ANNOTATIONS"):
        found = cfg.DATA[key]
        require(found == "" or supervised, f"DATA.{key}", found, f"'' with METHOD {cfg.METHOD!r}, which uses no labels")
    paired = cfg.DATA.VAL_ANNOTATIONS == "" or cfg.DATA.VAL_ROOT != ""
    require(paired, "DATA.VAL_ROOT", "", "the folder that the file names in DATA.VAL_ANNOTATIONS are relative to")
    require(cfg.MODEL.WEIGHTS == "" or supervised, "MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, f"'' with METHOD {cfg.METHOD!r}")
    monitored = (cfg.KNN.TRAIN_ROOT != "", cfg.KNN.VAL_ROOT != "")
    missing = "TRAIN_ROOT" if monitored[1] else "VAL_ROOT"
    require(monitored[0] == monitored[1], f"KNN.{missing}", "", "a folder of classes, as the other of the two is given")
