"""Counts the costs of a run on its real objects: arithmetic, communication, memory, and images per second.

A small step of the real method runs on the CPU in a single process that acts as the first of many: a fake process
group completes every collective immediately without moving data. The step counts operations, tensors saved for
backward, and tensors passed to collectives. These counts grow linearly with the batch size.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from detectron2.utils import comm
from fvcore.common.config import CfgNode
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..build import build_optimizer
from ..data.sampler import EpochSampler
from ..data.views import normalize
from ..device import memory_format
from ..methods import METHODS
from ..methods.base import DataFacts
from ..methods.shuffle_bn import bn_groups
from ..schedules import max_iterations

# Collectives by their dispatcher name, with the index of the argument that contains the data to send.
COLLECTIVES = {
    "c10d::allreduce_": ("all_reduce", 0),
    "c10d::allreduce_coalesced_": ("all_reduce", 0),
    "c10d::broadcast_": ("broadcast", 0),
    "c10d::allgather_": ("all_gather", 1),
    "c10d::_allgather_base_": ("all_gather", 1),
    "c10d::reduce_scatter_": ("reduce_scatter", 1),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::alltoall_": ("all_to_all", 1),
    "c10d::alltoall_base_": ("all_to_all", 1),
}


def sent(operation: str, handed: float, world: int) -> float:
    """Return the bytes that leave each of ``world`` processes if each passes ``handed`` bytes to a collective.

    all_gather, reduce_scatter and all_reduce are assumed to use rings, which send the minimum. all_to_all is averaged
    over all permutations, in which one of W rows stays in its process.
    """
    times = {
        "all_to_all": (world - 1) / world,
        "reduce_scatter": (world - 1) / world,
        "all_reduce": 2 * (world - 1) / world,
        "all_gather": world - 1,
        "broadcast": 1 if world > 1 else 0,
    }
    return handed * times[operation]


class CollectiveCounter(TorchDispatchMode):
    """Counts the bytes that this process passes to collectives while active. ``handed`` maps operations to bytes.

    Raises:
        ValueError: a collective is not in `COLLECTIVES` and cannot be counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.handed: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func._schema.name
        if "c10d" in func.namespace and name not in ("c10d::barrier", "_c10d_functional::wait_tensor"):
            if name not in COLLECTIVES:
                raise ValueError(f"{name} is an unsupported collective; expected one of {', '.join(COLLECTIVES)}")
            operation, place = COLLECTIVES[name]
            self.handed[operation] += sum(tensor.nbytes for tensor in tree_leaves(args[place]))
        return func(*args, **(kwargs or {}))


@contextmanager
def saved_for_backward(known: Sequence[torch.Tensor]) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collect the storages that the backward pass will need.

    Args:
        known: tensors to ignore because they are counted elsewhere: parameters, buffers and the batch.
    """
    elsewhere = {tensor.untyped_storage()._cdata for tensor in known}
    # Keep the storages alive until the end; otherwise, a new storage could reuse the address of a freed one.
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in elsewhere:
            saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


@contextmanager
def pretended_processes(world: int) -> Iterator[None]:
    """Make this process act as rank 0 of ``world``. Collectives return immediately without moving data."""
    if world == 1:
        yield
        return
    # PyTorch's own tool for simulating one of many processes. Importing it registers the backend.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


class StepCosts(NamedTuple):
    """The costs of a step in one process.

    Attributes:
        flops: operations in convolutions and matrix products, with one entry for each part of the forward pass and one
            for ``"backward"``. A multiply-add counts as two operations. Normalisation, activations and the optimizer
            are not counted.
        handed: bytes that the process passes to collectives, by phase of the step (``"forward"``, ``"backward"``,
            ``"gradients"``) and operation.
        memory: bytes that must be kept until the backward pass: ``"saved for backward"``, and ``"batch"``, the input.
    """

    flops: Mapping[str, float]
    handed: Mapping[tuple[str, str], float]
    memory: Mapping[str, float]


def count_step(method: nn.Module, batch: Mapping[str, torch.Tensor], dtype: torch.dtype) -> StepCosts:
    """Run the forward and backward passes of ``method`` on ``batch`` and count their costs.

    DDP is not used. Instead, the float32 gradients that it would exchange are added to the counts.

    Args:
        method: a method from `METHODS`. Its gradients, buffers and generators are modified.
        batch: a batch in the form in which the trainer passes it to the method.
        dtype: precision of the encoders, bfloat16 or float32.
    """
    method.zero_grad()
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    known = [*method.parameters(), *method.buffers(), *batch.values()]
    counter = FlopCounterMode(display=False)
    with CollectiveCounter() as forward, saved_for_backward(known) as saved, counter, autocast:
        outputs = method(batch)
    by_module = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    flops = {name: by_module.get(f"{type(method).__name__}.{name}", 0) for name, _ in method.named_children()}
    flops["similarities"] = counter.get_total_flops() - sum(flops.values())
    memory = {
        "saved for backward": sum(storage.nbytes() for storage in saved.values()),
        "batch": sum(value.nbytes for value in batch.values()),
    }
    with CollectiveCounter() as backward, FlopCounterMode(display=False) as counter:
        outputs["loss"].backward()
    flops["backward"] = counter.get_total_flops()
    handed = {("forward", name): count for name, count in forward.handed.items()}
    handed |= {("backward", name): count for name, count in backward.handed.items()}
    if comm.get_world_size() > 1:
        handed["gradients", "all_reduce"] = gradient_bytes(method)
    return StepCosts({name: count for name, count in flops.items() if count}, handed, memory)


def gradient_bytes(method: nn.Module) -> int:
    """Return the number of bytes in the gradients of all trainable parameters."""
    return sum(parameter.nbytes for parameter in method.parameters() if parameter.requires_grad)


def extrapolate(small: StepCosts, large: StepCosts, factor: float) -> StepCosts:
    """Return the costs of a batch ``factor`` times as large as that of ``small``, given one twice as large, ``large``.

    Costs that do not depend on the batch size (gradients) remain constant, and all others grow linearly. Similarities
    within a batch actually grow quadratically, but with a ResNet-50 and a batch size of 1024 they account for less than
    a ten-thousandth of the operations.
    """

    def lines(few: Mapping[Any, float], many: Mapping[Any, float]) -> dict[Any, float]:
        return {name: few[name] + (many[name] - few[name]) * (factor - 1) for name in few}

    return StepCosts(
        lines(small.flops, large.flops), lines(small.handed, large.handed), lines(small.memory, large.memory)
    )


class RunCosts(NamedTuple):
    """The costs of a run.

    Attributes:
        config: config of the run.
        world: number of processes, one for each GPU.
        rows: number of images per batch in each process.
        iterations: number of steps in the run.
        images: number of images in the data set.
        flops, handed: costs of one process in one step; see `StepCosts`.
        memory: bytes in use by a process at the end of the forward pass, by purpose.
        image_memory: additional bytes needed for each further image in the batch.
    """

    config: CfgNode
    world: int
    rows: int
    iterations: int
    images: int
    flops: Mapping[str, float]
    handed: Mapping[tuple[str, str], float]
    memory: Mapping[str, float]
    image_memory: float


def count_run(cfg: CfgNode, world: int, images: int, classes: int = 1000) -> RunCosts:
    """Count the costs of the run described by ``cfg``.

    Args:
        cfg: a validated config of pre-training.
        world: number of processes.
        images: number of images in the data set.
        classes: number of classes in the data set, for METHOD "supervised".

    Raises:
        ValueError: the batch cannot be divided evenly among the processes, or is larger than the data set.
    """
    kind = METHODS[cfg.METHOD]
    cfg = cfg.clone()
    cfg.defrost()
    with pretended_processes(world):
        sampler = EpochSampler(images, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED)
        cfg.MODEL.BN_GROUPS = bn_groups(cfg) if "MODEL.BN_GROUPS" in kind.keys else 1
    # A small memory bank is used because its size does not affect the costs of a step. A full bank might not fit (512
    # GB for a billion images), and it cannot be built in simulated processes, because it queries the memory of each.
    image_bytes = kind.bytes_per_image(cfg)
    with pretended_processes(1 if image_bytes else world):
        torch.manual_seed(cfg.SEED)
        size = sampler.batch_size if image_bytes else images
        data = DataFacts(size=size, classes=tuple(map(str, range(classes))))
        method = kind.from_config(cfg, data)
    method.to(memory_format=memory_format(cfg))
    # On a GPU, "auto" selects one of the two 16-bit formats.
    dtype = torch.float32 if cfg.SOLVER.PRECISION == "float32" else torch.bfloat16
    few = 2 * cfg.MODEL.BN_GROUPS
    with pretended_processes(world):
        small, large = (count_step(method, random_batch(cfg, count, data), dtype) for count in (few, 2 * few))
    step = extrapolate(small, large, sampler.rows / few)
    memory = count_memory(cfg, method)
    if image_bytes:
        memory["bank"] = image_bytes * images
    if world > 1:
        memory["DDP gradient buckets"] = memory["gradients"]
    memory |= step.memory
    image_memory = (sum(large.memory.values()) - sum(small.memory.values())) / few
    iterations = max_iterations(cfg, sampler.iterations_per_epoch)
    return RunCosts(cfg, world, sampler.rows, iterations, images, step.flops, step.handed, memory, image_memory)


def random_batch(cfg: CfgNode, rows: int, data: DataFacts) -> dict[str, torch.Tensor]:
    """Create a batch of noise with ``rows`` float32 images per view, in the form that the method of ``cfg`` expects."""
    shape = rows, 3, cfg.AUGMENTATION.CROP_SIZE, cfg.AUGMENTATION.CROP_SIZE
    batch = {
        name: normalize(torch.randint(256, shape, dtype=torch.uint8).contiguous(memory_format=memory_format(cfg)))
        for name in METHODS[cfg.METHOD].views
    }
    batch["index"] = torch.randint(data.size, (rows,))
    if METHODS[cfg.METHOD].classifies:
        batch["label"] = torch.randint(len(data.classes), (rows,))
    return batch


def count_memory(cfg: CfgNode, method: nn.Module) -> dict[str, float]:
    """Return the bytes that stay allocated between steps. ``method`` must have gradients; an optimizer steps once."""
    optimizer = build_optimizer(cfg, method)
    optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    memory = {
        "trainable parameters": gradient_bytes(method),
        "key encoder parameters": sum(p.nbytes for p in method.parameters() if not p.requires_grad),
        "gradients": sum(p.grad.nbytes for p in method.parameters() if p.grad is not None),
        "optimizer state": sum(value.nbytes for value in state if isinstance(value, torch.Tensor)),
    }
    # Queues and banks, but not the pointers into them.
    memory |= {name: buffer.nbytes for name, buffer in method.named_buffers(recurse=False) if buffer.numel() > 1}
    memory["other buffers"] = sum(buffer.nbytes for name, buffer in method.named_buffers() if name not in memory)
    return {name: count for name, count in memory.items() if count}
