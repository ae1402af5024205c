"""``mocodet benchmark train --detection``: compares a fine-tuning step with plain detectron2."""

import argparse
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from mocodet.common.benchmark.alternate import alternate, clock_of
from mocodet.common.benchmark.report import Row, rows_of
from mocodet.common.benchmark.settings import merge_changes

from ..config import add_moco_config
from ..data.registration import register_datasets
from ..data.toy import TOY_CLASSES, make_toy_data
from ..training.trainer import Trainer

# Title, config file and kind of the data set.
DETECTORS = (
    ("Faster R-CNN C4, VOC", "pascal_voc_R_50_C4_24k_random.yaml", "voc"),
    ("Mask R-CNN FPN, COCO", "coco_R_50_FPN_1x_random.yaml", "coco"),
)
IMAGES = 16
REFERENCE = "detectron2, float32"


class PlainStep:
    """A plain implementation of a step of detectron2's ``SimpleTrainer``: data, losses, gradients, update.

    Args:
        cfg: a config whose model has plain batch norm, which equals synchronised batch norm in a single process.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.model = build_model(cfg).train()
        self.optimizer = build_optimizer(cfg, self.model)
        self.batches = iter(build_detection_train_loader(cfg))

    def __call__(self) -> dict[str, float]:
        """Run the step, and return the losses for the log."""
        losses = self.model(next(self.batches))
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        values = {name: loss.item() for name, loss in losses.items()}
        self.optimizer.step()
        return values


class TrainerWithoutHooks(Trainer):
    """A trainer for individual steps, without logging, checkpoints or evaluation.

    Args:
        cfg: see `Trainer`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.model.train()

    def build_hooks(self) -> list[HookBase | None]:
        """Return an empty list."""
        return []


def toy_entry(root: Path, kind: str) -> dict[str, object]:
    """Return the MOCO.DATASETS entry for the toy training images in ``root``, in the format ``kind``."""
    where: dict[str, object] = {"ROOT": str(root / "voc/VOC2007"), "SPLIT": "train"}
    if kind == "coco":
        where = {"JSON": str(root / "coco/annotations/instances_train.json"), "IMAGES": str(root / "coco/train")}
    name = f"benchmark_{kind}_{uuid.uuid4().hex}"  # detectron2's catalogs are global
    return {"NAME": name, "KIND": kind, "CLASSES": list(TOY_CLASSES), **where}


@contextmanager
def configs_of(args: argparse.Namespace, device: torch.device) -> Iterator[dict[str, CfgNode]]:
    """Yield the config of each detector by name, with toy images of the requested size."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "toy")
        make_toy_data(root, train=IMAGES, test=len(TOY_CLASSES), unlabelled=0, size=args.size)
        made = {}
        for name, file, kind in DETECTORS:
            cfg, entry = get_cfg(), toy_entry(root, kind)
            add_moco_config(cfg)
            changes = {
                "MOCO.DATASETS": [entry],
                "DATASETS.TRAIN": (entry["NAME"],),
                "DATASETS.TEST": (),
                "DATALOADER.NUM_WORKERS": 0,
                "INPUT.MIN_SIZE_TRAIN": (args.size,),
                "MODEL.ROI_HEADS.NUM_CLASSES": len(TOY_CLASSES),
                "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": args.regions,
                "MODEL.DEVICE": device.type,
                "SOLVER.IMS_PER_BATCH": args.batch,
                "SOLVER.BASE_LR": 1e-4,  # low enough for finite losses after a few steps from random weights
                "OUTPUT_DIR": f"{folder}/output",
                "SEED": 0,
            }
            merge_changes(cfg, file, changes)
            register_datasets(cfg)
            made[name] = cfg
        yield made


def plain(cfg: CfgNode) -> CfgNode:
    """Return the config with plain batch norm, because detectron2's synchronised batch norm requires multiple GPUs."""
    copy = cfg.clone()
    copy.MODEL.RESNETS.NORM = copy.MODEL.FPN.NORM = "BN"
    return copy


def autocast(cfg: CfgNode) -> CfgNode:
    """Return the config with bfloat16 mixed precision enabled."""
    copy = cfg.clone()
    copy.SOLVER.AMP.ENABLED, copy.MOCO.AMP_DTYPE = True, "bfloat16"
    return copy


def steps_of(cfg: CfgNode) -> dict[str, Callable[[], object]]:
    """Return a step function for each implementation. All start from the same weights and see the same images."""
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        REFERENCE: lambda: PlainStep(plain(cfg)),
        "mocodet, float32": lambda: TrainerWithoutHooks(cfg).run_step,
        "mocodet, bfloat16": lambda: TrainerWithoutHooks(autocast(cfg)).run_step,
    }
    steps = {}
    for name, make in makers.items():
        seed_all_rng(cfg.SEED)
        steps[name] = make()
    return steps


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the result rows for each detector."""
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    clock = clock_of(device)
    with configs_of(args, device) as configs:
        for name, cfg in configs.items():
            with EventStorage():
                seconds = alternate(steps_of(cfg), args.pairs, clock, warm_up=1 if device.type == "cpu" else 5)
            yield rows_of(
                f"fine-tuning step, {name}, {args.size} px, batch {args.batch}, {args.regions} regions",
                seconds,
                reference=REFERENCE,
                clock=clock,
                settings={"size": args.size, "batch": args.batch, "regions": args.regions, "device": device.type},
            )
