"""The keys of a pre-training config. Recipes are YAML files under ``configs/pretrain/`` that change some of them."""

from functools import reduce

from fvcore.common.config import CfgNode

from .encoders import ARCHITECTURES, HEADS

_C = CfgNode()

# Where checkpoints, metrics.json and TensorBoard events go.
_C.OUTPUT_DIR = "./output/pretrain"
# Seed of initialisation, image order, augmentation and Shuffling BN. Negative: drawn at the start and logged.
_C.SEED = 0
# Iterations between two lines of the log.
_C.LOG_PERIOD = 20

_C.DATA = CfgNode()
# Folder of training images, searched to any depth; class folders are allowed and ignored.
_C.DATA.ROOT = ""
# Processes that decode and augment, for each training process. 0: the training process does it itself.
_C.DATA.NUM_WORKERS = 4

_C.AUGMENTATION = CfgNode()
# "moco_v1" or "moco_v2" (recipes in pretrain/data/views.py).
_C.AUGMENTATION.NAME = "moco_v2"
# Side of the square crop, in pixels.
_C.AUGMENTATION.CROP_SIZE = 224
# Smallest area of a crop, as a fraction of the image's.
_C.AUGMENTATION.MIN_SCALE = 0.2

_C.MODEL = CfgNode()
# "auto" (CUDA when there, else CPU), "cuda" or "cpu".
_C.MODEL.DEVICE = "auto"
# A ResNet of torchvision: resnet18, resnet34, resnet50, resnet101 or resnet152.
_C.MODEL.ARCH = "resnet50"
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
# How keys are kept: "moco" (queue and momentum encoder).
_C.CONTRAST.NAME = "moco"
# K, the number of keys in the queue.
_C.CONTRAST.QUEUE_SIZE = 65536
# m of the momentum update of the key encoder.
_C.CONTRAST.MOMENTUM = 0.999
# tau of InfoNCE: 0.07 in MoCo v1, 0.2 in v2.
_C.CONTRAST.TEMPERATURE = 0.2

_C.SOLVER = CfgNode()
# Images in a batch, over all processes.
_C.SOLVER.IMS_PER_BATCH = 256
_C.SOLVER.MAX_EPOCHS = 200
# Learning rate for this batch size.
_C.SOLVER.BASE_LR = 0.03
# "step" (times GAMMA at each of STEPS) or "cosine" (set anew at the start of each epoch).
_C.SOLVER.LR_SCHEDULE = "cosine"
# Epochs at which "step" multiplies the rate by GAMMA.
_C.SOLVER.STEPS = (120, 160)
_C.SOLVER.GAMMA = 0.1
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

    one_of("AUGMENTATION.NAME", cfg.AUGMENTATION.NAME, "moco_v1", "moco_v2")
    one_of("MODEL.DEVICE", cfg.MODEL.DEVICE, "auto", "cuda", "cpu")
    one_of("MODEL.ARCH", cfg.MODEL.ARCH, *ARCHITECTURES)
    one_of("MODEL.HEAD", cfg.MODEL.HEAD, *HEADS)
    one_of("CONTRAST.NAME", cfg.CONTRAST.NAME, "moco")
    one_of("SOLVER.LR_SCHEDULE", cfg.SOLVER.LR_SCHEDULE, "step", "cosine")
    one_of("SOLVER.PRECISION", cfg.SOLVER.PRECISION, "auto", "float32", "bfloat16", "float16")
    require(cfg.DATA.ROOT != "", "DATA.ROOT", cfg.DATA.ROOT, "a folder of images, for example DATA.ROOT imagenet/train")
    require(0 < cfg.AUGMENTATION.MIN_SCALE <= 1, "AUGMENTATION.MIN_SCALE", cfg.AUGMENTATION.MIN_SCALE, "within (0, 1]")
    require(0 <= cfg.CONTRAST.MOMENTUM <= 1, "CONTRAST.MOMENTUM", cfg.CONTRAST.MOMENTUM, "a number within [0, 1]")
    require(cfg.CONTRAST.TEMPERATURE > 0, "CONTRAST.TEMPERATURE", cfg.CONTRAST.TEMPERATURE, "a positive number")
    at_least_one = ("AUGMENTATION.CROP_SIZE", "MODEL.DIM", "CONTRAST.QUEUE_SIZE", "SOLVER.IMS_PER_BATCH",
                    "SOLVER.MAX_EPOCHS", "SOLVER.CHECKPOINTS_KEPT", "LOG_PERIOD")  # fmt: skip
    not_negative = ("MODEL.BN_GROUPS", "DATA.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.BASE_LR",
                    "SOLVER.GAMMA", "SOLVER.MOMENTUM", "SOLVER.WEIGHT_DECAY")  # fmt: skip
    for keys, least in ((at_least_one, 1), (not_negative, 0)):
        for key in keys:
            found = reduce(lambda node, part: node[part], key.split("."), cfg)
            require(found >= least, key, found, f"at least {least}")
    steps = list(cfg.SOLVER.STEPS)
    require(steps == sorted(set(steps)), "SOLVER.STEPS", cfg.SOLVER.STEPS, "epochs in rising order")
