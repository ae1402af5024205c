"""``mocodet benchmark step``: compares the trainer's MoCo step with that of the original code."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from fvcore.common.config import CfgNode

from mocodet.common.benchmark.alternate import Spread, alternate, clock_of
from mocodet.common.benchmark.rates import copy_bandwidth, peak_rate
from mocodet.common.benchmark.report import Row, rows_of
from mocodet.common.benchmark.settings import merge_changes
from mocodet.common.commands.benchmark import GROUPS, Case

from ..build import build_data
from ..config import check_config, get_cfg
from ..data.delivery import Delivery
from ..data.views import collate, normalize
from ..device import amp_dtype, memory_format, resolve_device
from ..trainer import PretrainTrainer
from .convolutions import ConvolutionsAlone, convolutions_of, count_flops
from .photographs import SMALL, draw_photographs
from .plain_moco import PlainMoCo, PlainStep
from .profile import WHOLE, longest_operations

REFERENCE = "the original's, float32"
QUEUE_SIZE = 65536  # as in the paper


class OneBatchTrainer(PretrainTrainer):
    """A trainer without hooks that uses the same batch in every step.

    Args:
        cfg: a validated config.
        batch: a batch as yielded by the loader.
    """

    def __init__(self, cfg: CfgNode, batch: dict[str, torch.Tensor]) -> None:
        super().__init__(cfg)
        self.delivery = Delivery(repeat(batch), self.device, memory_format(cfg))
        self.storage = EventStorage()
        self.model.train()

    def build_hooks(self) -> list[HookBase]:
        """Return no hooks, which disables logging and checkpoints."""
        return []


@contextmanager
def config_of(case: Case, device: str) -> Iterator[CfgNode]:
    """Create a MoCo v2 config for a case, with generated photographs and views that Pillow makes before the step."""
    cfg = get_cfg()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        draw_photographs(images, case.batch, SMALL)
        changes = {
            "DATA.ROOT": images,
            "DATA.NUM_WORKERS": 0,
            "DATA.AUGMENT": "pil",  # all augmentation is done before the step
            "AUGMENTATION.CROP_SIZE": case.size,
            "MODEL.ARCH": case.arch,
            "MODEL.DEVICE": device,
            "CONTRAST.QUEUE_SIZE": QUEUE_SIZE,
            "SOLVER.IMS_PER_BATCH": case.batch,
            "OUTPUT_DIR": f"{folder}/output",
        }
        merge_changes(cfg, "pretrain/moco_v2_R_50_200ep.yaml", changes)
        check_config(cfg)
        yield cfg


def varied(cfg: CfgNode, key: str, value: object) -> CfgNode:
    """Return a copy of a config with one key modified."""
    copy = cfg.clone()
    copy.merge_from_list([key, value])
    return copy


def first_batch(cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Return the views of the first images, in the form in which the loader yields them."""
    dataset = build_data(cfg).dataset
    return collate([dataset[index, index] for index in range(cfg.SOLVER.IMS_PER_BATCH)])


def plain_views(batch: dict[str, torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return the same views in the form of the original code: normalised, on the device, channels first."""
    return [normalize(batch[name].to(device)).contiguous() for name in ("query", "key")]


def memory_of(run: Callable[[], object], device: torch.device) -> str:
    """Return the additional peak GPU memory that ``run`` uses, in MiB, or ``""`` on a CPU."""
    if device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return f"{(torch.cuda.max_memory_allocated(device) - before) / 2**20:.0f}"


def compare(cfg: CfgNode, case: Case, pairs: int) -> list[Row]:
    """Compare steps for one case: the original code in two precisions, and the trainer with eight groups and one."""
    device = resolve_device(cfg)
    dtype = amp_dtype(cfg, device)
    batch = first_batch(cfg)
    ours = {groups: OneBatchTrainer(varied(cfg, "MODEL.BN_GROUPS", groups), batch) for groups in (GROUPS, 1)}
    query, key = plain_views(batch, device)
    in_last = [view.contiguous(memory_format=torch.channels_last) for view in (query, key)]
    plain = PlainStep(PlainMoCo(case.arch).to(device))
    plain_last = PlainStep(PlainMoCo(case.arch).to(device).to(memory_format=torch.channels_last), dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    alone = f"its convolutions alone, {name}"
    contestants: dict[str, Callable[[], object]] = {
        REFERENCE: partial(plain, query, key),
        f"the original's, {name}, channels_last": partial(plain_last, *in_last),
        **{f"mocodet, {name}, {groups} BN group{'s' * (groups > 1)}": ours[groups].run_step for groups in ours},
        alone: ConvolutionsAlone(convolutions_of(plain.model.encoder_q, query), device, dtype),
    }
    clock = clock_of(device)
    seconds = alternate(contestants, pairs, clock, warm_up=1 if device.type == "cpu" else 5)
    flops = count_flops(contestants[REFERENCE])
    details = {}
    for who, run in contestants.items():
        reached = flops / Spread.of(seconds[who]).median
        peak = peak_rate(device, torch.float32 if who == REFERENCE else dtype)
        details[who] = {"GFLOP/s": f"{reached / 1e9:.0f}", "of the device's peak": f"{reached / peak:.0%}"}
        if used := memory_of(run, device):
            details[who]["MiB"] = used
    del details[alone]  # does not include the matrix products of the heads and the queue
    return rows_of(
        f"step, {case.arch}, {case.size} px, batch {case.batch}",
        seconds,
        reference=REFERENCE,
        clock=clock,
        items=(case.batch, "images"),
        limit=alone,
        settings={**case._asdict(), "queue": QUEUE_SIZE, "device": device.type, "dtype": name},
        details=details,
    )


def queue_bytes(trainer: PretrainTrainer) -> int:
    """Return the size of a trainer's queue in bytes."""
    return trainer.method.get_buffer("queue").nbytes


def compare_queues(cfg: CfgNode, case: Case, sizes: list[int], pairs: int) -> list[Row]:
    """Compare the trainer's step for queues of different lengths. The first one is the reference."""
    device = resolve_device(cfg)
    batch = first_batch(cfg)
    trainers = {f"K {size}": OneBatchTrainer(varied(cfg, "CONTRAST.QUEUE_SIZE", size), batch) for size in sizes}
    clock = clock_of(device)
    seconds = alternate({who: one.run_step for who, one in trainers.items()}, pairs, clock)
    reference = f"K {sizes[0]}"
    first = Spread.of(seconds[reference]).median
    bandwidth = copy_bandwidth(device)  # reads and writes combined
    details = {
        who: {
            "more time": f"{Spread.of(seconds[who]).median / first - 1:+.0%}",
            "reading the queue once": f"{1e3 * queue_bytes(one) / bandwidth:.1f} ms",
        }
        for who, one in trainers.items()
    }
    return rows_of(
        f"queue, {case.arch}, {case.size} px, batch {case.batch}",
        seconds,
        reference=reference,
        clock=clock,
        settings={**case._asdict(), "queues": sizes, "device": device.type},
        details=details,
    )


def compare_operations(cfg: CfgNode, case: Case, steps: int) -> list[Row]:
    """Compare the trainer's step with eight batch-norm groups to its longest operations."""
    device = resolve_device(cfg)
    trainer = OneBatchTrainer(varied(cfg, "MODEL.BN_GROUPS", GROUPS), first_batch(cfg))
    for _ in range(1 if device.type == "cpu" else 10):  # warm-up: kernels are selected and memory is allocated
        trainer.run_step()
    seconds = longest_operations(trainer.run_step, device, steps)
    whole = Spread.of(seconds[WHOLE]).median
    return rows_of(
        f"operations of a step, {case.arch}, {case.size} px, batch {case.batch}",
        seconds,
        reference=WHOLE,
        clock=clock_of(device),
        settings={**case._asdict(), "queue": QUEUE_SIZE, "device": device.type, "groups": GROUPS},
        details={
            who: {"of the step": f"{Spread.of(values).median / whole:.1%}"}
            for who, values in seconds.items()
            if who != WHOLE
        },
    )


def measure(args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each case. ``args.queue`` compares queues instead, and ``args.profile`` compares operations."""
    for case in args.case:
        with config_of(case, args.device) as cfg:
            if args.queue:
                yield compare_queues(cfg, case, args.queue, args.pairs)
            elif args.profile:
                yield compare_operations(cfg, case, args.pairs)
            else:
                yield compare(cfg, case, args.pairs)
