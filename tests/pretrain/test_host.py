"""Neither a method nor views make the CPU wait for a GPU, as far as a test without a GPU can prove it."""

from contextlib import nullcontext
from random import Random

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mocodet.pretrain.costs.count import pretended_processes
from mocodet.pretrain.data.augment import batched
from mocodet.pretrain.data.augment.opencv import encode_steps
from mocodet.pretrain.data.augment.parameters import draw_view
from mocodet.pretrain.data.augment.recipes import RECIPES
from mocodet.pretrain.host import send
from mocodet.pretrain.methods import (
    METHODS,
    DenseContrast,
    EndToEnd,
    MemoryBank,
    Method,
    MomentumContrast,
    SupervisedClassifier,
)
from mocodet.pretrain.methods.heads import build_dense_head
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from tests.pretrain.methods.small import BATCH, DIM, SEED, small_encoder


def small_dense() -> DenseContrast:
    encoder = nn.Sequential()
    encoder.layer4, encoder.head = small_encoder(2)[:3], small_encoder(2)[3:]  # maps of 5 x 4 x 4
    head = build_dense_head(5, DIM)
    return DenseContrast(encoder, BatchShuffle(SEED), dense_head=head, queue_size=2 * BATCH, dim=DIM)


MAKERS = {
    "dense": small_dense,
    "moco": lambda: MomentumContrast(small_encoder(2), BatchShuffle(SEED), queue_size=2 * BATCH, dim=DIM),
    "end_to_end": lambda: EndToEnd(small_encoder(2), BatchShuffle(SEED)),
    "memory_bank": lambda: MemoryBank(small_encoder(2), dataset_size=20, num_negatives=9, dim=DIM, seed=SEED),
    "supervised": lambda: SupervisedClassifier(small_encoder(1)),
}


class Copies(TorchDispatchMode):
    """Records whether copies from the CPU to another device are from pinned memory and do not wait.

    Without a driver no memory can be pinned; here a tensor counts as pinned if the code asked for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[torch.Tensor] = []
        self.waiting: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name == "aten::_pin_memory":
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        found = func(*args, **kwargs)
        sources = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        results = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
        from_cpu = [tensor for tensor in sources if tensor.device.type == "cpu" and tensor.ndim]
        if from_cpu and any(tensor.device.type != "cpu" for tensor in [*sources, *results]):
            self.count += 1
            held = any(from_cpu[-1] is tensor for tensor in self.pinned)
            if not (func._schema.name == "aten::_to_copy" and held and kwargs.get("non_blocking")):
                self.waiting.append(str(func))
        return found


def step_away_from_the_cpu(method: Method, copies: Copies) -> dict[str, torch.Tensor]:
    """Run forward and backward on the device "meta", which has shapes but no values."""
    batch = {name: torch.empty(BATCH, 3, 6, 6, device="meta") for name in method.views}
    batch |= {name: torch.empty(BATCH, dtype=torch.long, device="meta") for name in ("index", "label")}
    method.to("meta")
    with copies:
        outputs = method(batch)
        outputs["loss"].backward()
    return outputs


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_forward_and_backward__nothing_makes_the_cpu_wait(name, world, monkeypatch):
    """Two reasons for which the CPU waits for a GPU do not occur in the methods and their backward pass.

    On "meta" a value that the CPU wants to know raises: ``item``, ``tolist``, ``if tensor``, masks, ``nonzero``.
    Every copy from the CPU is from pinned memory and does not wait. That these are the only reasons in PyTorch's own
    operations on CUDA, and what the Triton kernels and NCCL do, this test cannot show.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not support the device
    copies = Copies()
    method = MAKERS[name]()  # a memory bank asks all processes for their memory
    with pretended_processes(world):
        outputs = step_away_from_the_cpu(method, copies)
    assert all(value.device.type == "meta" for value in outputs.values())
    assert copies.waiting == []
    exchanges = {"moco": 1, "end_to_end": 1, "dense": 3}.get(
        name, 0
    )  # images; with dense their maps and cells come back
    assert copies.count == (world * exchanges + 1 if exchanges else name == "memory_bank")


@pytest.mark.parametrize("recipe", RECIPES)
def test_apply_steps__nothing_makes_the_cpu_wait(recipe):
    """The same holds for the remaining steps of views: the CPU has their parameters and sends them."""
    rng, copies = Random(0), Copies()
    steps = torch.stack([encode_steps(draw_view(RECIPES[recipe], 9, 9, 0.2, rng).steps) for _ in range(40)])
    images = torch.empty(40, 3, 9, 9, device="meta")
    with copies:
        assert batched.apply_steps(images, steps).device.type == "meta"
    assert copies.waiting == []
    assert copies.count > 0


def test_makers__every_method_of_the_package():
    assert MAKERS.keys() == {name for name, method in METHODS.items() if method.__module__.startswith("mocodet.")}


class Waiting(nn.Module):
    """Does what the test above must detect."""

    views = ("query",)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 1)
        self.how = how

    def forward(self, batch):
        images = batch["query"]
        if self.how == "value":
            images.sum().item()
        elif self.how == "mask":
            images = images[images[:, 0, 0, 0] > 0]
        elif self.how == "pageable":
            images = images[torch.randperm(BATCH).to("meta", non_blocking=True)]
        elif self.how == "blocking":
            images = images[torch.randperm(BATCH).pin_memory().to("meta")]
        elif self.how == "index":
            images = images[torch.randperm(BATCH)]
        return {"loss": self.layer(images).sum()}


@pytest.mark.parametrize("how", ["value", "mask"])
def test_step_away_from_the_cpu__finds_values_that_are_read(how):
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        step_away_from_the_cpu(Waiting(how), Copies())


@pytest.mark.parametrize("how", ["pageable", "blocking", "index", "none"])
def test_step_away_from_the_cpu__finds_copies_that_wait(how):
    copies = Copies()
    step_away_from_the_cpu(Waiting(how), copies)
    assert bool(copies.waiting) == (how != "none")


def test_send__stays_on_the_cpu():
    drawn = torch.arange(3)
    assert send(drawn, torch.device("cpu")) is drawn
