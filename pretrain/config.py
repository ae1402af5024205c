"""The keys of a pre-training config. Recipes are YAML files under ``configs/pretrain/`` that change some of them.

This file has the keys of every run. Keys that only some methods read are in the methods' files
(``pretrain/methods/``).
"""

from functools import reduce

from fvcore.common.config import CfgNode

from mocodet.common.encoders.resnet import ARCHITECTURES
from mocodet.common.formats import MAX_PIXELS

from .data.augment.recipes import RECIPES
from .keys import FRACTION, POSITIVE, RISING, SHARE, Key, Values, at_least, check_value, one_of, value_of
from .methods import METHODS
from .schedules import WARM_START

COMMON_KEYS = {
    "METHOD": Key("moco", "Name of the pre-training method (pretrain/methods/)."),
    "OUTPUT_DIR": Key("./output/pretrain", "Where checkpoints, metrics.json and TensorBoard events go."),
    "SEED": Key(0, "Seed of weights, image order, augmentation and Shuffling BN. Negative: one is drawn and logged."),
    "LOG_PERIOD": Key(20, "Iterations between two lines of the log.", at_least(1)),
    "COLLECTIVE_TIMEOUT": Key(
        600, "Seconds that processes wait for a slow one before the run stops and names it.", at_least(1)
    ),
    "DATA.ROOT": Key("", "Folder of training images, searched to any depth; class folders matter only with classes."),
    "DATA.SHARDS": Key("", "Instead of ROOT, for data sets too large to list: WebDataset shards (docs/shards.md)."),
    "DATA.SHUFFLE_BUFFER": Key(
        10000, "Images of shards that each process reads ahead and shuffles (at most 0.75 GiB).", at_least(1)
    ),
    "DATA.ANNOTATIONS": Key(
        "", "With classes: iNaturalist's JSON of the training images, relative to ROOT; '': a folder for each class."
    ),
    "DATA.VAL_ROOT": Key("", "With classes: folder of the validation split; '': none."),
    "DATA.VAL_ANNOTATIONS": Key("", "With classes: iNaturalist's JSON of the validation images; see ANNOTATIONS."),
    "DATA.MAX_PIXELS": Key(
        MAX_PIXELS, "Larger images are refused: Pillow's limit against files made to fill memory. 0: none.", at_least(0)
    ),
    "DATA.EXCLUDE": Key(
        "", "With ROOT: list of files not to learn from, as `mocodet prepare-data images` writes it (docs/data.md)."
    ),
    "DATA.MAX_UNREADABLE": Key(
        0.001, "Largest share of images that may be unreadable; others replace them (docs/data.md).", SHARE
    ),
    "DATA.NUM_WORKERS": Key(4, "Loader processes for each process. 0: it decodes and augments itself.", at_least(0)),
    "DATA.AUGMENT": Key(
        "auto",
        "Where views are made (docs/performance.md). 'pil': in the loader processes with Pillow, slowly; 'cpu': there"
        " with OpenCV; 'device': all but the crop on the training device; 'auto': 'device' on CUDA, 'cpu' elsewhere.",
        one_of("auto", "pil", "cpu", "device"),
    ),
    "DATA.CACHE": Key(
        "none",
        "Where images are kept that are decoded once, before training: 'ram', shared by the processes of a machine, or"
        " 'disk', a file in CACHE_DIR that later runs reuse.",
        one_of("none", "ram", "disk"),
    ),
    "DATA.CACHE_DIR": Key("./output/cache", "See CACHE."),
    "DATA.CACHE_SIDE": Key(
        0, "The cache shrinks larger images to this shorter side, in pixels. 0: 2 x CROP_SIZE.", at_least(0)
    ),
    "AUGMENTATION.NAME": Key("moco_v2", "One of the recipes in pretrain/data/augment/recipes.py.", one_of(*RECIPES)),
    "AUGMENTATION.CROP_SIZE": Key(224, "Side of the square crop, in pixels.", at_least(1)),
    "AUGMENTATION.MIN_SCALE": Key(0.2, "Smallest area of a crop, as a fraction of the image's.", FRACTION),
    "MODEL.DEVICE": Key("auto", "'auto': CUDA when there, else CPU.", one_of("auto", "cuda", "cpu")),
    "MODEL.ARCH": Key(
        "resnet50",
        "resnet18, resnet34, resnet50, resnet101, resnet152, resnet50w2, resnet50w4 (all layers twice, four times as"
        " wide), resnext50_32x8d and the others of common/encoders/resnet.py.",
        one_of(*ARCHITECTURES),
    ),
    "MODEL.SMALL_STEM": Key(
        False,
        "For images of 32 to 64 pixels: a first convolution of 3x3 and stride 1, and no max-pooling. detectron2's"
        " ResNet has no such stem: these weights do not convert.",
    ),
    "MODEL.WEIGHTS": Key(
        "", "Checkpoint that the encoder starts from, any that converts (docs/warm_start.md). '': random weights."
    ),
    "MODEL.CHANNELS_LAST": Key(True, "Store images and weights with channels innermost: faster, on CUDA and CPU."),
    # The k-nearest-neighbours monitor: how well the features of the encoder in training separate classes.
    "KNN.TRAIN_ROOT": Key("", "Reference images in class folders; VAL_ROOT: those to classify. Both '': no monitor."),
    "KNN.VAL_ROOT": Key("", "See TRAIN_ROOT."),
    "KNN.DATASET": Key(
        [],
        "Instead of folders: boxes of your own data, an entry as in MOCO.DATASETS; the boxes of a quarter of the images"
        " are classified by those of the others (docs/evaluation.md).",
        Values("one entry as in MOCO.DATASETS", lambda value: len(value) <= 1),
    ),
    "KNN.PERIOD": Key(0, "Iterations between two measurements. 0: one at the end of each epoch.", at_least(0)),
    "KNN.SIZE": Key(
        0, "Side of the central crop that is evaluated, in pixels. 0: AUGMENTATION.CROP_SIZE.", at_least(0)
    ),
    "KNN.K": Key(200, "Neighbours (Wu et al., CVPR 2018).", at_least(1)),
    "KNN.TEMPERATURE": Key(0.07, "Temperature of the neighbours' votes.", POSITIVE),
    "SOLVER.IMS_PER_BATCH": Key(256, "Images in a batch, over all processes.", at_least(1)),
    "SOLVER.MAX_EPOCHS": Key(200, "Length of the run in epochs.", at_least(1)),
    "SOLVER.MAX_ITER": Key(0, "Length of the run in iterations instead of epochs. 0: MAX_EPOCHS.", at_least(0)),
    "SOLVER.BASE_LR": Key(0.03, "Learning rate for this batch size.", at_least(0)),
    "SOLVER.WARMUP_ITERS": Key(
        -1,
        f"Iterations in which the rate rises linearly to the schedule's. -1: {WARM_START} where MODEL.WEIGHTS starts a"
        " METHOD without classes, else 0.",
        at_least(-1),
    ),
    "SOLVER.LR_SCHEDULE": Key(
        "cosine",
        "'step': times GAMMA at STEPS; 'cosine': set at each epoch; 'decay': times GAMMA after every DECAY_PERIOD.",
        one_of("step", "cosine", "decay"),
    ),
    "SOLVER.STEPS": Key((120, 160), "Epochs at which 'step' multiplies the rate by GAMMA.", RISING),
    "SOLVER.GAMMA": Key(0.1, "See LR_SCHEDULE.", at_least(0)),
    "SOLVER.DECAY_PERIOD": Key(62500, "Iterations; see LR_SCHEDULE.", at_least(1)),
    "SOLVER.MOMENTUM": Key(0.9, "Momentum of SGD (not of the key encoder).", at_least(0)),
    "SOLVER.WEIGHT_DECAY": Key(1e-4, "Weight decay of SGD, on all parameters.", at_least(0)),
    "SOLVER.PRECISION": Key(
        "auto",
        "Precision of the encoders; logits and loss are float32. 'auto': 16 bits where the device is fast in them."
        " float16 needs CUDA.",
        one_of("auto", "float32", "bfloat16", "float16"),
    ),
    "SOLVER.CHECKPOINT_PERIOD": Key(0, "Iterations between checkpoints. 0: one at the end of each epoch.", at_least(0)),
    "SOLVER.CHECKPOINTS_KEPT": Key(3, "Checkpoints kept besides model_final.pth; older ones are deleted.", at_least(1)),
    "SOLVER.CHECKPOINTS_KEPT_EVERY": Key(
        0, "Also keep the older checkpoints at multiples of this many CHECKPOINT_PERIODs. 0: none.", at_least(0)
    ),
}


def all_keys() -> dict[str, Key]:
    """Return the keys of every run and of all known methods, by name.

    Raises:
        ValueError: two methods declare one key differently.
    """
    keys = dict(COMMON_KEYS)
    for method in METHODS.values():
        for name, key in method.keys.items():
            if keys.setdefault(name, key) != key:
                raise ValueError(f"METHOD {method.name} declares {name}, which is already another key; rename it")
    return keys


def get_cfg() -> CfgNode:
    """Return a new config with the defaults."""
    cfg = CfgNode()
    for name, key in all_keys().items():
        *nodes, last = name.split(".")
        reduce(lambda node, part: node.setdefault(part, CfgNode()), nodes, cfg)[last] = key.default
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Refuse invalid values.

    Raises:
        ValueError: the message names the key, the value found and the values expected.
    """
    check_value(cfg.METHOD in METHODS, "METHOD", cfg.METHOD, one_of(*METHODS).expected)
    for name, key in all_keys().items():
        found = value_of(cfg, name)
        check_value(key.values.hold(found), name, found, key.values.expected)
    _check_data(cfg)
    # A cosine or steps that were cut off or stretched would not be the recipe that the config names.
    by_iterations = cfg.SOLVER.MAX_ITER == 0 or cfg.SOLVER.LR_SCHEDULE == "decay"
    check_value(by_iterations, "SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, "0 with a schedule of epochs (step, cosine)")
    METHODS[cfg.METHOD].check_config(cfg)


def unused(cfg: CfgNode) -> list[str]:
    """Return settings without effect, as ``KEY value``: keys of other METHODs, steps after the end of the run."""
    readers = {name: [method.name for method in METHODS.values() if name in method.keys] for name in all_keys()}
    found = [
        f"{name} {value_of(cfg, name)} (read by METHOD {', '.join(readers[name])})"
        for name, key in all_keys().items()
        if readers[name] and cfg.METHOD not in readers[name] and value_of(cfg, name) != key.default
    ]
    uncached = {"none": ("DATA.CACHE_SIDE", "DATA.CACHE_DIR"), "ram": ("DATA.CACHE_DIR",)}.get(cfg.DATA.CACHE, ())
    found += [
        f"{name} {value_of(cfg, name)} (DATA.CACHE is {cfg.DATA.CACHE!r})"
        for name in uncached
        if value_of(cfg, name) != COMMON_KEYS[name].default
    ]
    late = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_EPOCHS]
    if cfg.SOLVER.LR_SCHEDULE == "step" and late:
        found.append(f"SOLVER.STEPS {', '.join(map(str, late))} (SOLVER.MAX_EPOCHS is {cfg.SOLVER.MAX_EPOCHS})")
    return found


def _check_data(cfg: CfgNode) -> None:
    method, root, shards = METHODS[cfg.METHOD], cfg.DATA.ROOT, cfg.DATA.SHARDS
    check_value(bool(root or shards), "DATA.ROOT", root, "a folder of images, for example DATA.ROOT imagenet/train")
    check_value(not (root and shards), "DATA.SHARDS", shards, f"'' beside DATA.ROOT {root!r}; give one of the two")
    check_value(not shards or cfg.DATA.CACHE == "none", "DATA.CACHE", cfg.DATA.CACHE, "'none' with DATA.SHARDS")
    left_out = "'' with DATA.SHARDS: leave files out when you write the shards"
    check_value(not (shards and cfg.DATA.EXCLUDE), "DATA.EXCLUDE", cfg.DATA.EXCLUDE, left_out)
    streams = not (method.needs_index or method.classifies)
    check_value(not shards or streams, "DATA.SHARDS", shards, f"'': METHOD {cfg.METHOD!r} needs a folder, DATA.ROOT")
    for name in ("DATA.ANNOTATIONS", "DATA.VAL_ROOT", "DATA.VAL_ANNOTATIONS"):
        found = value_of(cfg, name)
        unlabelled = f"'' with METHOD {cfg.METHOD!r}, which uses no labels"
        check_value(found == "" or method.classifies, name, found, unlabelled)
    relative = "the folder that the file names in DATA.VAL_ANNOTATIONS are relative to"
    check_value(cfg.DATA.VAL_ROOT != "" or cfg.DATA.VAL_ANNOTATIONS == "", "DATA.VAL_ROOT", "", relative)
    folders = f"[] beside KNN.TRAIN_ROOT {cfg.KNN.TRAIN_ROOT!r}; give one of the two"
    check_value(not (cfg.KNN.DATASET and cfg.KNN.TRAIN_ROOT), "KNN.DATASET", cfg.KNN.DATASET, folders)
    both = "a folder of classes, as the other of the two is given"
    for one, other in (("TRAIN_ROOT", "VAL_ROOT"), ("VAL_ROOT", "TRAIN_ROOT")):
        check_value(cfg.KNN[one] != "" or cfg.KNN[other] == "", f"KNN.{one}", "", both)
