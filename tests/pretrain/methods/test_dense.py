"""Dense contrast against sections 3.2 to 3.4 of DenseCL, one cell at a time, without the package's code."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch import nn

from mocodet.common.encoders.resnet import build_resnet
from mocodet.pretrain.build import build_data
from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.methods import DenseContrast, MomentumContrast
from mocodet.pretrain.methods.base import DataFacts
from mocodet.pretrain.methods.dense import embed_with_maps, nearest_cells
from mocodet.pretrain.methods.encoding import embed, spread
from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d
from mocodet.pretrain.methods.heads import build_dense_head
from mocodet.pretrain.methods.shuffle_bn import BatchShuffle
from tests.pretrain.methods.small import (
    BATCH,
    DIM,
    SEED,
    TEMPERATURE,
    Training,
    assert_same_in_processes,
    assert_same_training,
    contrast,
    encoder_with_maps,
    image_batches,
    on_devices,
    slow_training,
    small_encoder,
    train,
    unit,
)
from tests.processes import run_in_processes

WIDTH, QUEUE, MOMENTUM, WEIGHT, WARMUP = 5, 11, 0.9, 0.4, 3
STEPS = 10  # 10 x 8 keys go round queues of 11, which 8 does not divide, seven times


def mapping_encoder(groups: int) -> nn.Module:
    """An encoder whose maps have 2 x 3 cells."""
    torch.manual_seed(SEED)
    norm = nn.BatchNorm2d(WIDTH) if groups == 1 else GroupedBatchNorm2d(WIDTH, groups)
    return encoder_with_maps(nn.Sequential(nn.Conv2d(3, WIDTH, (3, 4), stride=(2, 1), bias=False), norm), WIDTH)


OPTIONS = {"queue_size": QUEUE, "dim": DIM, "momentum": MOMENTUM, "temperature": TEMPERATURE}


NEGATIVES = ("pooled", "cells")

DENSE = "mocodet.pretrain.methods.dense"  # the module


def small_dense(groups: int, **options: object) -> DenseContrast:
    encoder, head = mapping_encoder(groups), build_dense_head(WIDTH, DIM)
    defaults = {**OPTIONS, "dense_weight": WEIGHT, "dense_warmup_iters": WARMUP}
    return DenseContrast(encoder, BatchShuffle(SEED), dense_head=head, **{**defaults, **options})


def batches() -> list[dict[str, torch.Tensor]]:
    return image_batches(("query", "key"), STEPS)


def train_all_ways() -> dict[tuple[int, str], Training]:
    return {
        (groups, negatives): train(small_dense(groups, dense_negatives=negatives), batches())
        for groups in (1, 2)
        for negatives in NEGATIVES
    }


class Encoded(NamedTuple):
    """The encoding of an image: a unit vector, and for each cell its features and dense unit vector."""

    vector: torch.Tensor
    features: list[torch.Tensor]
    cells: list[torch.Tensor]


def encode(encoders: list[nn.Module], head: nn.Module, images: torch.Tensor, order: list[int]) -> list[Encoded]:
    """Encode the d-th part of ``order`` on device d; return the encodings in the order of the images."""
    rows = BATCH // len(encoders)
    encoded = [None] * BATCH
    for device, encoder in enumerate(encoders):
        here = order[device * rows : (device + 1) * rows]
        maps = encoder.layer4(torch.stack([images[image] for image in here]))
        for image, found in zip(here, maps, strict=True):
            features = [found[:, row, column] for row in range(found.shape[1]) for column in range(found.shape[2])]
            cells = []
            for feature in features:
                hidden = head[0].weight[:, :, 0, 0] @ feature + head[0].bias
                hidden = torch.stack([max(value, 0 * value) for value in hidden])
                cells.append(unit(head[2].weight[:, :, 0, 0] @ hidden + head[2].bias))
            pooled = sum(features) / len(features)
            encoded[image] = Encoded(unit(encoder.fc.weight @ pooled + encoder.fc.bias), features, cells)
    return encoded


@cache
def reference(devices: int, negatives: str) -> Training:
    """The method on ``devices`` devices with plain BN each."""
    start = small_dense(1)
    f_q, f_k = (on_devices(mapping_encoder(1), devices) for _ in range(2))
    head_q, head_k = start.dense_head_q, start.dense_head_k
    for module in (*f_k, head_k):
        module.requires_grad_(False)
    queues = {name: [column.clone() for column in getattr(start, name).T] for name in ("queue", "dense_queue")}
    head, steps = 0, 0
    shuffling = torch.Generator().manual_seed(SEED)

    def follow(mine, theirs):
        for theta_k, theta_q in zip(mine.parameters(), theirs.parameters(), strict=True):
            theta_k.copy_(MOMENTUM * theta_k + (1 - MOMENTUM) * theta_q)

    def step(batch):
        nonlocal head, steps
        queries = encode(f_q, head_q, batch["query"], list(range(BATCH)))
        with torch.no_grad():
            follow(f_k[0], f_q[0])
            follow(head_k, head_q)
            keys = encode(f_k, head_k, batch["key"], torch.randperm(BATCH, generator=shuffling).tolist())
        scores, dense, same = [], [], []
        for query, key in zip(queries, keys, strict=True):
            scores.append([torch.dot(query.vector, other) for other in [key.vector, *queues["queue"]]])
            cell_scores, matches = [], []
            for feature, cell in zip(query.features, query.cells, strict=True):
                cosines = [torch.dot(unit(feature), unit(other)).item() for other in key.features]
                matches.append(cosines.index(max(cosines)))
                positive = key.cells[matches[-1]]
                cell_scores.append([torch.dot(cell, other) for other in [positive, *queues["dense_queue"]]])
            dense.append(contrast(cell_scores))
            same.append(torch.tensor(sum(place == match for place, match in enumerate(matches)) / len(matches)))
        for place, key in enumerate(keys, head):
            cells = len(key.cells)
            one = key.cells[place % QUEUE % cells]
            queues["queue"][place % QUEUE] = key.vector
            queues["dense_queue"][place % QUEUE] = one if negatives == "cells" else unit(sum(key.cells) / cells)
        head = (head + BATCH) % QUEUE
        weight = WEIGHT if steps >= WARMUP else 0
        steps += 1
        images = contrast(scores)
        means = {name: [sum(cells[name]) / len(cells[name]) for cells in dense] for name in images}
        return {
            "loss": [(1 - weight) * a + weight * b for a, b in zip(images["loss"], means["loss"], strict=True)],
            "loss_global": images["loss"],
            "loss_dense": means["loss"],
            "accuracy": images["accuracy"],
            "accuracy_dense": means["accuracy"],
            "same_place": same,
        }

    def state():
        pointers = dict.fromkeys(("queue_ptr", "dense_queue_ptr"), torch.tensor([head]))
        return {name: torch.stack(queue).T for name, queue in queues.items()} | pointers

    kept = {"encoder_q": f_q, "encoder_k": f_k, "dense_head_q": [head_q] * devices, "dense_head_k": [head_k] * devices}
    return slow_training(step, kept, batches(), state)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("groups", [1, 2])
def test_dense__agrees_with_the_definition_in_one_process(groups, negatives):
    found = train(small_dense(groups, dense_negatives=negatives), batches())
    assert_same_training(found, reference(groups, negatives), range(groups))


def test_dense__agrees_with_the_definition_in_two_processes():
    # Two processes with two groups each normalise like four devices.
    trainings = run_in_processes(train_all_ways)
    for groups, negatives in trainings[0]:
        found = [training[groups, negatives] for training in trainings]
        assert_same_in_processes(found, reference(2 * groups, negatives))


def test_warmup__is_moco_to_the_last_bit():
    model, moco = (
        small_dense(2, dense_warmup_iters=STEPS - 1),
        MomentumContrast(mapping_encoder(2), BatchShuffle(SEED), **OPTIONS),
    )
    moco.queue.copy_(model.queue)
    found, expected = (train(method, batches()).states for method in (model, moco))
    for step in range(STEPS):
        same = [torch.equal(found[step][name], value) for name, value in expected[step].items()]
        assert all(same) == (step < STEPS - 1)
    filled = [state["dense_queue_ptr"].item() for state in found]
    assert filled[:2] == [BATCH, 2 * BATCH % QUEUE], "the dense queue fills meanwhile"


@pytest.mark.parametrize("queue_size", [6, 16, 40])
def test_negatives__the_queue_has_all_places_equally_often(queue_size, monkeypatch):
    model = small_dense(1, dense_negatives="cells", queue_size=queue_size)
    # The encoder marks each cell with its place.
    monkeypatch.setattr(f"{DENSE}.embed_with_maps", lambda encoder, images: (images[:, :DIM, 0, 0], images))
    monkeypatch.setattr(f"{DENSE}.embed", lambda head, maps: maps)
    marked = torch.arange(6.0).reshape(1, 1, 2, 3).expand(BATCH, DIM, -1, -1)
    for _ in range(2 * queue_size):  # each column is written several times
        model.fill({"key": marked})
    found = model.dense_queue[0].long().bincount(minlength=6)
    assert found.min() == queue_size // 6
    assert found.max() <= queue_size // 6 + 1


def test_spread__is_that_of_the_trained_vectors():
    batch = batches()[0]
    for weight in (0.9, 1.0):
        model = small_dense(1, dense_weight=weight, dense_warmup_iters=0)
        q, maps = embed_with_maps(model.encoder_q, batch["query"])
        cells = embed(model.dense_head_q, maps).transpose(0, 1).flatten(1).T
        torch.testing.assert_close(model(batch)["spread"], spread(cells if weight == 1 else q))


def test_begin_step__is_a_function_of_progress():
    model = small_dense(1, dense_warmup_iters=2, momentum_schedule="cosine")
    seen = []
    for iteration in (0, 1, 2, 1, 4):  # a resumed run begins anywhere
        model.begin_step(iteration, 5)
        seen.append(model.dense_weight)
    assert seen == [0, 0, WEIGHT, 0, WEIGHT]
    assert model.momentum > MOMENTUM, "MoCo's schedule is kept"
    assert small_dense(1, dense_warmup_iters=0).dense_weight == WEIGHT


def test_check_length__a_run_that_is_all_warm_up_is_refused_before_its_images_are_cached(tmp_path):
    for name in "abcdefgh":
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    cfg = get_cfg()
    cfg.merge_from_list(["METHOD", "dense", "DATA.ROOT", str(tmp_path), "DATA.CACHE", "disk"])
    cfg.merge_from_list(["DATA.CACHE_DIR", str(tmp_path / "cache"), "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_EPOCHS", 2])
    cfg.CONTRAST.DENSE_WARMUP_ITERS = 4
    with pytest.raises(ValueError, match=r"DENSE_WARMUP_ITERS is 4; expected fewer than the 4 iterations of the run"):
        build_data(cfg)
    assert not (tmp_path / "cache").exists()
    DenseContrast.check_length(cfg, 5)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_fill__is_the_key_side_of_a_step(negatives):
    """Encoders are equal, so that the momentum update of a step changes nothing."""
    filled, stepped = small_dense(2, dense_negatives=negatives), small_dense(2, dense_negatives=negatives)
    stepped.load_state_dict(filled.state_dict())
    start = {name: value.clone() for name, value in filled.state_dict().items()}
    for batch in batches()[:2]:
        filled.fill(batch)
        stepped(batch)
    found, expected = filled.state_dict(), stepped.state_dict()
    for name, value in found.items():
        query_side = name.startswith(("encoder_q.", "dense_head_q."))
        torch.testing.assert_close(value, start[name] if query_side else expected[name], atol=1e-6, rtol=0)
    assert not torch.equal(found["encoder_k.layer4.1.running_mean"], start["encoder_k.layer4.1.running_mean"])
    assert found["dense_queue_ptr"].item() == found["queue_ptr"].item() == 2 * BATCH % QUEUE


def test_forward__gradient_reaches_the_query_side_alone():
    model = small_dense(2, dense_weight=1.0, dense_warmup_iters=0)
    model(batches()[0])["loss"].backward()
    for module in (model.encoder_q.layer4, model.dense_head_q):
        assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())
    assert all(parameter.grad.abs().max() == 0 for parameter in model.encoder_q.fc.parameters())
    assert all(p.grad is None for module in (model.encoder_k, model.dense_head_k) for p in module.parameters())


def test_init__dense_key_head_is_an_exact_frozen_copy():
    model = small_dense(1)
    for mine, theirs in zip(model.dense_head_k.parameters(), model.dense_head_q.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
        assert (mine.requires_grad, theirs.requires_grad) == (False, True)
    torch.testing.assert_close(model.dense_queue.norm(dim=0), torch.ones(QUEUE))
    assert not torch.equal(model.dense_queue, model.queue)


def test_init__unknown_negatives():
    with pytest.raises(ValueError, match="dense_negatives is 'cell'; expected one of pooled, cells"):
        small_dense(1, dense_negatives="cell")


def test_init__encoder_without_maps():
    with pytest.raises(ValueError, match=r"Sequential has no layer4; expected a ResNet"):
        DenseContrast(small_encoder(1), BatchShuffle(SEED), dense_head=nn.Identity(), **OPTIONS)


def test_nearest_cells__float32_under_autocast():
    # Cosines differ by less than a thousandth, and in bfloat16 not at all.
    maps_q = torch.randn(1, 64, 1, 1) + 0.02 * torch.randn(2, 64, 3, 3)
    maps_k = maps_q.roll(1, dims=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest_cells(maps_q, 7 * maps_k)
    assert found.tolist() == [[1, 2, 0, 4, 5, 3, 7, 8, 6]] * 2


@pytest.mark.parametrize(("size", "small_stem", "cells"), [(32, False, 1), (33, False, 4), (8, True, 1), (9, True, 4)])
def test_check_config__refuses_maps_of_one_cell(size, small_stem, cells):
    cfg = get_cfg()
    cfg.merge_from_list(["METHOD", "dense", "DATA.ROOT", "images", "AUGMENTATION.CROP_SIZE", size])
    cfg.merge_from_list(["MODEL.SMALL_STEM", small_stem, "MODEL.ARCH", "resnet18"])
    network = nn.Sequential(*list(build_resnet("resnet18", small_stem=small_stem).children())[:-2])
    assert network(torch.zeros(2, 3, size, size))[0, 0].numel() == cells
    assert DenseContrast.chance(cfg, DataFacts(size=9))["same_place"] == 1 / cells
    if cells > 1:
        check_config(cfg)
        cfg.merge_from_list(["CONTRAST.DENSE_NEGATIVES", "cells", "CONTRAST.QUEUE_SIZE", cells])
        check_config(cfg)
        cfg.CONTRAST.QUEUE_SIZE = cells - 1
        with pytest.raises(ValueError, match=rf"QUEUE_SIZE is {cells - 1}; expected at least {cells}, so that the"):
            check_config(cfg)
    else:
        with pytest.raises(ValueError, match=rf"CROP_SIZE is {size}; expected more than {size}, the stride"):
            check_config(cfg)


@pytest.mark.parametrize("head", ["fc", "mlp"])
def test_from_config__keys_arrive(head):
    cfg = get_cfg()
    cfg.merge_from_list(["METHOD", "dense", "MODEL.ARCH", "resnet18", "MODEL.DIM", 7, "MODEL.HEAD", head])
    cfg.merge_from_list(["CONTRAST.QUEUE_SIZE", 6, "CONTRAST.DENSE_WEIGHT", 0.3, "CONTRAST.DENSE_WARMUP_ITERS", 4])
    assert DenseContrast.from_config(cfg, DataFacts(size=9)).dense_negatives == "pooled"
    cfg.CONTRAST.DENSE_NEGATIVES = "cells"
    model = DenseContrast.from_config(cfg, DataFacts(size=9))
    assert (model.base_dense_weight, model.dense_warmup_iters, model.dense_weight) == (0.3, 4, 0)
    assert model.dense_negatives == "cells"
    assert [tuple(model.dense_head_q[layer].weight.shape) for layer in (0, 2)] == [(512, 512, 1, 1), (7, 512, 1, 1)]
    assert model.dense_queue.shape == model.queue.shape == (7, 6)
