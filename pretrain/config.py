"""The keys of a pre-training config. Recipes are YAML files in ``configs/pretrain/`` that override some of them.

This file defines the keys that every run uses. Keys that only some methods use are defined in the method files
(``pretrain/methods/``).
"""

from functools import reduce

from fvcore.common.config import CfgNode

from mocodet.common.encoders.resnet import ARCHITECTURES
from mocodet.common.formats import MAX_PIXELS

from .data.augment.recipes import MIN_BLUR_SIGMA, RECIPES
from .keys import FRACTION, POSITIVE, RISING, SHARE, Key, Values, at_least, check_value, one_of, value_of
from .methods import METHODS
from .schedules import WARM_START

COMMON_KEYS = {
    "METHOD": Key("moco", "Name of the pre-training method (pretrain/methods/)."),
    "OUTPUT_DIR": Key("./output/pretrain", "Output folder for checkpoints, metrics.json and TensorBoard events."),
    "SEED": Key(
        0,
        "Seed for weights, image order, augmentation and Shuffling BN. A negative value chooses a random seed and logs"
        " it.",
    ),
    "LOG_PERIOD": Key(20, "Number of iterations between log lines.", at_least(1)),
    "COLLECTIVE_TIMEOUT": Key(
        600, "Seconds to wait for a slow process before the run stops and reports which one it was.", at_least(1)
    ),
    "DATA.ROOT": Key(
        "",
        "Folder of training images, searched recursively. Class folders are only used by methods that train on labels.",
    ),
    "DATA.SHARDS": Key(
        "", "Index of WebDataset shards, an alternative to ROOT for very large data sets (docs/shards.md)."
    ),
    "DATA.SHUFFLE_BUFFER": Key(
        10000, "Number of shard images that each process reads ahead and shuffles (at most 0.75 GiB).", at_least(1)
    ),
    "DATA.ANNOTATIONS": Key(
        "",
        "iNaturalist JSON file of the training images, for methods that train on labels. Its file names are relative to"
        " ROOT. If empty, ROOT must contain one folder for each class.",
    ),
    "DATA.VAL_ROOT": Key(
        "", "Folder of the validation split, for methods that train on labels. If empty, no validation is done."
    ),
    "DATA.VAL_ANNOTATIONS": Key(
        "", "iNaturalist JSON file of the validation images, for methods that train on labels. See ANNOTATIONS."
    ),
    "DATA.MAX_PIXELS": Key(
        MAX_PIXELS,
        "Largest number of pixels in an image. The default is Pillow's limit, which protects against files crafted to"
        " exhaust memory. 0 disables the limit.",
        at_least(0),
    ),
    "DATA.EXCLUDE": Key(
        "",
        "List of files in ROOT to exclude from training, in the format written by `mocodet prepare-data images`"
        " (docs/data.md).",
    ),
    "DATA.MAX_UNREADABLE": Key(
        0.001,
        "Largest fraction of images that may be unreadable. Unreadable images are replaced by others (docs/data.md).",
        SHARE,
    ),
    "DATA.NUM_WORKERS": Key(
        4,
        "Number of data-loader processes for each training process. 0 loads and augments images in the training process"
        " itself.",
        at_least(0),
    ),
    "DATA.AUGMENT": Key(
        "auto",
        "Where views are computed (docs/performance.md). 'pil' uses Pillow in the loader processes, which is slow."
        " 'cpu' uses OpenCV in the loader processes. 'device' only crops in the loader processes and does"
        " everything else on the training device. 'auto' selects 'device' on CUDA and 'cpu' elsewhere.",
        one_of("auto", "pil", "cpu", "device"),
    ),
    "DATA.CACHE": Key(
        "none",
        "Cache for images, which are decoded once before training. 'ram' shares the cache between the processes of a"
        " machine. 'disk' stores it as a file in CACHE_DIR, which later runs reuse.",
        one_of("none", "ram", "disk"),
    ),
    "DATA.CACHE_DIR": Key("./output/cache", "Folder for the cache files if CACHE is 'disk'."),
    "DATA.CACHE_SIDE": Key(
        0,
        "Larger images are shrunk to this shorter side, in pixels, before they are cached. 0 means 2 x CROP_SIZE.",
        at_least(0),
    ),
    "AUGMENTATION.NAME": Key(
        "moco_v2", "Augmentation recipe, as defined in pretrain/data/augment/recipes.py.", one_of(*RECIPES)
    ),
    "AUGMENTATION.CROP_SIZE": Key(224, "Side length of the square crop, in pixels.", at_least(1)),
    "AUGMENTATION.MIN_SCALE": Key(0.2, "Smallest area of a crop, as a fraction of the image area.", FRACTION),
    "AUGMENTATION.BLUR_SIGMA": Key(
        RECIPES["moco_v2"].blur_sigma,
        "Largest standard deviation of the blur of MoCo v2, in pixels of the crop; the smallest is 0.1. The default is"
        " that of MoCo v2 for crops of 224 pixels. Smaller crops of images with fine textures need less blur.",
        at_least(MIN_BLUR_SIGMA),
    ),
    "MODEL.DEVICE": Key(
        "auto",
        "Training device. 'auto' uses CUDA if it is available and the CPU otherwise.",
        one_of("auto", "cuda", "cpu"),
    ),
    "MODEL.ARCH": Key(
        "resnet50",
        "Encoder architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnet50w2 or resnet50w4 (all layers"
        " two or four times as wide), resnext50_32x8d, or another one from common/encoders/resnet.py.",
        one_of(*ARCHITECTURES),
    ),
    "MODEL.SMALL_STEM": Key(
        False,
        "Use a stem for images of 32 to 64 pixels: a 3x3 convolution with stride 1 and no max-pooling. Weights with"
        " this stem cannot be converted, because detectron2's ResNet does not support it.",
    ),
    "MODEL.WEIGHTS": Key(
        "",
        "Checkpoint that initialises the encoder, in any format that the converter supports (docs/warm_start.md). If"
        " empty, weights are initialised randomly.",
    ),
    "MODEL.CHANNELS_LAST": Key(
        True, "Store images and weights in the channels-last memory format, which is faster on both CUDA and CPU."
    ),
    # The k-nearest-neighbours monitor, which measures how well the features of the current encoder separate classes.
    "KNN.TRAIN_ROOT": Key(
        "", "Reference images in class folders for the kNN monitor. If this and VAL_ROOT are empty, it is disabled."
    ),
    "KNN.VAL_ROOT": Key("", "Images in class folders that the kNN monitor classifies."),
    "KNN.DATASET": Key(
        [],
        "Bounding boxes of your own data for the kNN monitor, as an alternative to folders: an entry as in"
        " MOCO.DATASETS. The boxes of a quarter of the images are classified using those of the other images"
        " (docs/evaluation.md).",
        Values("one entry as in MOCO.DATASETS", lambda value: len(value) <= 1),
    ),
    "KNN.PERIOD": Key(0, "Number of iterations between measurements. 0 measures after each epoch.", at_least(0)),
    "KNN.SIZE": Key(
        0, "Side length of the central crop to evaluate, in pixels. 0 means AUGMENTATION.CROP_SIZE.", at_least(0)
    ),
    "KNN.K": Key(200, "Number of neighbours that vote (Wu et al., CVPR 2018).", at_least(1)),
    "KNN.TEMPERATURE": Key(0.07, "Temperature that weights the votes of the neighbours.", POSITIVE),
    "SOLVER.IMS_PER_BATCH": Key(256, "Total batch size across all processes.", at_least(1)),
    "SOLVER.MAX_EPOCHS": Key(200, "Number of training epochs.", at_least(1)),
    "SOLVER.MAX_ITER": Key(0, "Number of training iterations. 0 uses MAX_EPOCHS instead.", at_least(0)),
    "SOLVER.BASE_LR": Key(0.03, "Base learning rate. It is not scaled with the batch size.", at_least(0)),
    "SOLVER.WARMUP_ITERS": Key(
        -1,
        f"Number of iterations of linear learning-rate warm-up. -1 means {WARM_START} if MODEL.WEIGHTS initialises a"
        " contrastive METHOD, and 0 otherwise.",
        at_least(-1),
    ),
    "SOLVER.LR_SCHEDULE": Key(
        "cosine",
        "Learning-rate schedule. 'step' multiplies the rate by GAMMA at each of STEPS. 'cosine' follows a half cosine"
        " and changes once per epoch. 'decay' multiplies the rate by GAMMA after every DECAY_PERIOD iterations.",
        one_of("step", "cosine", "decay"),
    ),
    "SOLVER.STEPS": Key(
        (120, 160), "Epochs at which the 'step' schedule multiplies the learning rate by GAMMA.", RISING
    ),
    "SOLVER.GAMMA": Key(0.1, "Learning-rate factor of the 'step' and 'decay' schedules.", at_least(0)),
    "SOLVER.DECAY_PERIOD": Key(62500, "Number of iterations between the steps of the 'decay' schedule.", at_least(1)),
    "SOLVER.MOMENTUM": Key(0.9, "Momentum of SGD. CONTRAST.MOMENTUM sets that of the key encoder.", at_least(0)),
    "SOLVER.WEIGHT_DECAY": Key(1e-4, "Weight decay of SGD, applied to all parameters.", at_least(0)),
    "SOLVER.PRECISION": Key(
        "auto",
        "Precision of the encoders; logits and loss are always computed in float32. 'auto' uses a 16-bit format if the"
        " device supports it natively. 'float16' requires CUDA.",
        one_of("auto", "float32", "bfloat16", "float16"),
    ),
    "SOLVER.CHECKPOINT_PERIOD": Key(
        0, "Number of iterations between checkpoints. 0 saves one at the end of each epoch.", at_least(0)
    ),
    "SOLVER.CHECKPOINTS_KEPT": Key(
        3, "Number of checkpoints to keep in addition to model_final.pth. Older ones are deleted.", at_least(1)
    ),
    "SOLVER.CHECKPOINTS_KEPT_EVERY": Key(
        0,
        "Also keep older checkpoints at every multiple of this many CHECKPOINT_PERIODs. 0 keeps none of them.",
        at_least(0),
    ),
}


def all_keys() -> dict[str, Key]:
    """Return the keys of every run and of all registered methods, by name.

    Raises:
        ValueError: two methods declare the same key differently.
    """
    keys = dict(COMMON_KEYS)
    for method in METHODS.values():
        for name, key in method.keys.items():
            if keys.setdefault(name, key) != key:
                raise ValueError(f"METHOD {method.name} declares {name}, but this key already exists; rename it")
    return keys


def get_cfg() -> CfgNode:
    """Return a new config with the default values."""
    cfg = CfgNode()
    for name, key in all_keys().items():
        *nodes, last = name.split(".")
        reduce(lambda node, part: node.setdefault(part, CfgNode()), nodes, cfg)[last] = key.default
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Check that all values of a config are valid and consistent.

    Raises:
        ValueError: a value is invalid. The message contains the key, the value found, and the values expected.
    """
    check_value(cfg.METHOD in METHODS, "METHOD", cfg.METHOD, one_of(*METHODS).expected)
    for name, key in all_keys().items():
        found = value_of(cfg, name)
        check_value(key.values.hold(found), name, found, key.values.expected)
    _check_data(cfg)
    # A cosine or step schedule that was truncated or stretched would differ from the recipe in the config.
    by_iterations = cfg.SOLVER.MAX_ITER == 0 or cfg.SOLVER.LR_SCHEDULE == "decay"
    check_value(
        by_iterations, "SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, "0, because 'step' and 'cosine' schedules count epochs"
    )
    METHODS[cfg.METHOD].check_config(cfg)


def without_effect(cfg: CfgNode) -> dict[str, str]:
    """Return the keys that have no effect with this config, and the reasons: for example, keys of other METHODs."""
    readers = {name: [method.name for method in METHODS.values() if name in method.keys] for name in all_keys()}
    reasons = {
        name: f"only used by METHOD {', '.join(methods)}"
        for name, methods in readers.items()
        if methods and cfg.METHOD not in methods
    }
    uncached = {"none": ("DATA.CACHE_SIDE", "DATA.CACHE_DIR"), "ram": ("DATA.CACHE_DIR",)}.get(cfg.DATA.CACHE, ())
    reasons |= dict.fromkeys(uncached, f"DATA.CACHE is {cfg.DATA.CACHE!r}")
    if not RECIPES[cfg.AUGMENTATION.NAME].blur_probability:
        reasons["AUGMENTATION.BLUR_SIGMA"] = f"AUGMENTATION.NAME is {cfg.AUGMENTATION.NAME!r}, which does not blur"
    return reasons


def unused(cfg: CfgNode) -> list[str]:
    """Return settings that have no effect but differ from their defaults, as ``KEY value``, with the reason."""
    keys = all_keys()
    found = [
        f"{name} {value_of(cfg, name)} ({reason})"
        for name, reason in without_effect(cfg).items()
        if value_of(cfg, name) != keys[name].default
    ]
    late = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_EPOCHS]
    if cfg.SOLVER.LR_SCHEDULE == "step" and late:
        found.append(f"SOLVER.STEPS {', '.join(map(str, late))} (SOLVER.MAX_EPOCHS is {cfg.SOLVER.MAX_EPOCHS})")
    return found


def _check_data(cfg: CfgNode) -> None:
    method, root, shards = METHODS[cfg.METHOD], cfg.DATA.ROOT, cfg.DATA.SHARDS
    check_value(bool(root or shards), "DATA.ROOT", root, "a folder of images, for example DATA.ROOT imagenet/train")
    check_value(
        not (root and shards), "DATA.SHARDS", shards, f"'' because DATA.ROOT is {root!r}; set only one of the two"
    )
    check_value(not shards or cfg.DATA.CACHE == "none", "DATA.CACHE", cfg.DATA.CACHE, "'none' with DATA.SHARDS")
    left_out = "'' with DATA.SHARDS; exclude files when you create the shards instead"
    check_value(not (shards and cfg.DATA.EXCLUDE), "DATA.EXCLUDE", cfg.DATA.EXCLUDE, left_out)
    streams = not (method.needs_index or method.classifies)
    folder_only = f"'' because METHOD {cfg.METHOD!r} requires a folder; set DATA.ROOT instead"
    check_value(not shards or streams, "DATA.SHARDS", shards, folder_only)
    for name in ("DATA.ANNOTATIONS", "DATA.VAL_ROOT", "DATA.VAL_ANNOTATIONS"):
        found = value_of(cfg, name)
        unlabelled = f"'' because METHOD {cfg.METHOD!r} does not use labels"
        check_value(found == "" or method.classifies, name, found, unlabelled)
    relative = "the folder that contains the files listed in DATA.VAL_ANNOTATIONS"
    check_value(cfg.DATA.VAL_ROOT != "" or cfg.DATA.VAL_ANNOTATIONS == "", "DATA.VAL_ROOT", "", relative)
    folders = f"[] because KNN.TRAIN_ROOT is {cfg.KNN.TRAIN_ROOT!r}; set only one of the two"
    check_value(not (cfg.KNN.DATASET and cfg.KNN.TRAIN_ROOT), "KNN.DATASET", cfg.KNN.DATASET, folders)
    both = "a folder of class folders, because KNN.TRAIN_ROOT and KNN.VAL_ROOT must be set together"
    for one, other in (("TRAIN_ROOT", "VAL_ROOT"), ("VAL_ROOT", "TRAIN_ROOT")):
        check_value(cfg.KNN[one] != "" or cfg.KNN[other] == "", f"KNN.{one}", "", both)
