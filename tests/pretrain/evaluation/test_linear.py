"""Linear classifiers side by side, against each trained alone with torch.optim.SGD."""

import io
import itertools
import logging
import math
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mocodet.common.progress import progress
from mocodet.pretrain.data.labelled import read_class_folders
from mocodet.pretrain.evaluation import features as features_module
from mocodet.pretrain.evaluation import linear
from mocodet.pretrain.evaluation.features import FeatureSettings, extract_features, random_backbone, state_digest
from mocodet.pretrain.evaluation.linear import (
    LinearSweep,
    Protocol,
    augmented_batches,
    evaluate_linear,
    published_steps,
    stored_batches,
)

GRID = [(30.0, 0.0), (1.0, 0.01), (0.1, 0.5)]
DIM, CLASSES, COUNT = 5, 7, 50


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    return 0.3 * torch.randn(COUNT, DIM, generator=generator) + 0.1 * labels[:, None], labels


def trained_alone(features, labels, first, lr, wd, rates):
    """Train one classifier; ``rates`` are those of each epoch. Returns it and the mean loss of the last epoch."""
    classifier = nn.Linear(DIM, CLASSES)
    with torch.no_grad():
        classifier.weight.copy_(first)
        classifier.bias.zero_()
    optimizer = torch.optim.SGD(classifier.parameters(), lr, momentum=0.9, weight_decay=wd)
    for epoch, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        losses = []
        for places in Protocol(len(rates), 16, steps=(), seed=3).batches(COUNT, epoch):
            loss = nn.CrossEntropyLoss()(classifier(features[places]), labels[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(places)
    return classifier, sum(losses) / COUNT


def test_sweep__equals_each_classifier_alone(features):
    x, labels = features
    protocol = Protocol(5, 16, steps=(2, 4), seed=3)
    sweep = LinearSweep(GRID, DIM, CLASSES, protocol)
    first = sweep.weights[0].detach().clone()
    assert list(sweep.epochs(partial(stored_batches, x, labels, protocol, "cpu"))) == [1, 2, 3, 4, 5]
    for number, (lr, wd) in enumerate(GRID):
        rates = [lr, lr, 0.1 * lr, 0.1 * lr, 0.01 * lr]
        alone, loss = trained_alone(x, labels, first, lr, wd, rates)
        torch.testing.assert_close(sweep.weights[number], alone.weight, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sweep.biases[number], alone.bias, atol=1e-4, rtol=1e-4)
        assert sweep.losses[number].item() == pytest.approx(loss, rel=1e-4)


def test_sweep__starts_as_published():
    sweep = LinearSweep(GRID, 400, 300, Protocol())
    assert sweep.weights[0].std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(sweep.weights[0].mean().item()) < 1e-3
    assert all(torch.equal(weight, sweep.weights[0]) for weight in sweep.weights)
    assert all(not bias.any() for bias in sweep.biases)
    assert not torch.equal(LinearSweep(GRID, 400, 300, Protocol(seed=1)).weights[0], sweep.weights[0])


def test_protocol__published_values_and_rates():
    protocol = Protocol()
    assert (protocol.epochs, protocol.batch_size, protocol.momentum) == (100, 256, 0.9)
    assert published_steps(100) == protocol.steps
    assert [round(protocol.decay(epoch), 6) for epoch in (0, 59, 60, 79, 80, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("steps", [(3, 2), (2, 2), (0, 2), (2, 5), (2, 9)])
def test_protocol__steps_must_rise_and_do_something(steps):
    with pytest.raises(ValueError, match=r"steps are \d, \d; expected epochs from 1 to 4 in increasing order"):
        Protocol(5, steps=steps)


def test_published_steps__of_few_epochs():
    assert [published_steps(epochs) for epochs in range(1, 6)] == [(), (1,), (2,), (2, 3), (3, 4)]


def test_protocol__every_epoch_has_every_image_in_another_order():
    protocol = Protocol(batch_size=16)
    orders = [torch.cat(protocol.batches(COUNT, epoch)) for epoch in range(2)]
    assert all(order.sort().values.tolist() == list(range(COUNT)) for order in orders)
    assert not torch.equal(*orders)
    assert [len(batch) for batch in protocol.batches(COUNT, 0)] == [16, 16, 16, 2]


def test_accuracy__equals_sorting_and_tells_divergence(features):
    x, labels = features
    sweep = LinearSweep(GRID, DIM, CLASSES, Protocol())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in sweep.weights:
            weight.normal_(generator=generator)
        sweep.weights[1][2, 3] = torch.nan
    found = sweep.accuracy(x, labels, chunk=7)
    assert found[1] is None
    for number in (0, 2):
        logits = (x @ sweep.weights[number].detach().T).tolist()
        rankings = [sorted(range(CLASSES), key=lambda label, row=row: -row[label]) for row in logits]
        top1 = sum(ranking[0] == label for ranking, label in zip(rankings, labels.tolist(), strict=True))
        top5 = sum(label in ranking[:5] for ranking, label in zip(rankings, labels.tolist(), strict=True))
        assert 0 < top1 < top5 < COUNT
        assert found[number] == pytest.approx({"top1": 100 * top1 / COUNT, "top5": 100 * top5 / COUNT})


def test_sweep__one_that_diverges_harms_no_other(features):
    x, labels = features
    protocol = Protocol(3, 16, steps=(), seed=3)
    sweep = LinearSweep([(3e38, 0.0), (0.1, 0.0)], DIM, CLASSES, protocol)
    first = sweep.weights[1].detach().clone()
    assert list(sweep.epochs(partial(stored_batches, x, labels, protocol, "cpu"))) == [1, 2, 3]
    assert not sweep.weights[0].isfinite().all()
    alone, _ = trained_alone(x, labels, first, 0.1, 0.0, [0.1] * 3)
    torch.testing.assert_close(sweep.weights[1], alone.weight, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", [[], [(0.0, 0.0)], [(1.0, -1.0)], [(float("nan"), 0.0)]])
def test_sweep__refuses_nonsense(grid):
    with pytest.raises(ValueError, match=r"at least|expected a positive rate"):
        LinearSweep(grid, DIM, CLASSES, Protocol())


# With images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, dark and bright, that differ in colour alone."""
    root = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for number in range(14):
        pixels = generator.integers(0, 100, (40, 44, 3)) + 150 * (number % 2)
        (root / f"class{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"class{number % 2}" / f"{number}.png")
    return read_class_folders(root)


@pytest.fixture
def backbone():
    return random_backbone("resnet18", 0)


SETTINGS = FeatureSettings(size=32)
SMALL = Protocol(4, 8, steps=(2,), seed=1)


def test_augmented_batches__frozen_features_of_random_crops(data, backbone):
    first, again, later = (list(augmented_batches(backbone, data, SMALL, SETTINGS, epoch)) for epoch in (0, 0, 1))
    order = torch.cat(SMALL.batches(14, 0))
    assert torch.equal(torch.cat([labels for _, labels in first]), data.labels[order])
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    by_place = torch.empty(2, 14, 512)
    for epoch, found in enumerate((first, later)):
        by_place[epoch, torch.cat(SMALL.batches(14, epoch))] = torch.cat([rows for rows, _ in found])
    central = extract_features(backbone, data, SETTINGS)
    assert (by_place[0] != by_place[1]).any(dim=1).all(), "crops differ in each epoch"
    # A random crop of noise with one brightness resembles the central crop more than an image of the other class.
    same = (by_place[0] - central).norm(dim=1)
    other = torch.stack(
        [
            (row - central[data.labels != label]).norm(dim=1).min()
            for row, label in zip(by_place[0], data.labels, strict=True)
        ]
    )
    assert (same < other).all()


@pytest.mark.parametrize("cached", [True, False])
def test_evaluate_linear__learns_and_leaves_the_backbone(data, backbone, cached):
    before = state_digest(backbone)
    found = evaluate_linear(backbone, data, data, SETTINGS, SMALL, [(3e38, 0.0), (0.1, 0.01)], cached=cached)
    assert state_digest(backbone) == before
    assert found[0] == {"lr": 3e38, "wd": 0.0, "train_loss": None, "top1": None, "top5": None, "best": False}
    assert 0 < found[1].pop("train_loss") < 0.6931, "ln 2 is chance"
    assert found[1] == {"lr": 0.1, "wd": 0.01, "top1": 100.0, "top5": 100.0, "best": True}


def test_evaluate_linear__best_is_the_first_of_the_highest(data, backbone, monkeypatch):
    scores = [{"top1": 10.0, "top5": 90.0}, None, {"top1": 30.0, "top5": 50.0}, {"top1": 30.0, "top5": 60.0}]
    monkeypatch.setattr(LinearSweep, "accuracy", lambda *_: scores)
    grid = list(itertools.product([0.1, 0.01], [0, 0.1]))
    found = evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid, cached=True)
    assert [row["best"] for row in found] == [False, False, True, False]
    assert [row["top1"] for row in found] == [10, None, 30, 30]


def test_evaluate_linear__backbone_that_changes_is_an_error(data, backbone):
    def drift(module, *_):
        module.running_mean.add_(1e-6)

    backbone.bn1.register_forward_hook(drift)
    with pytest.raises(RuntimeError, match="the backbone changed"):
        evaluate_linear(backbone, data, data, SETTINGS, SMALL, [(0.1, 0.0)])


@pytest.mark.parametrize("cached", [True, False])
def test_evaluate_linear__tells_the_time_left(data, backbone, monkeypatch, caplog, capsys, cached):
    """The clock advances by a minute at each reading."""
    seconds = itertools.count(0, 60)
    monkeypatch.setattr(features_module, "progress", partial(progress, clock=lambda: next(seconds)))
    minutes = itertools.count(0, 60)
    monkeypatch.setattr(linear, "time", SimpleNamespace(perf_counter=lambda: next(minutes)))
    with caplog.at_level(logging.INFO, "mocodet.pretrain"):
        evaluate_linear(backbone, data, data, SETTINGS, SMALL, [(0.1, 0.0)], cached=cached)
    told = [re.sub(r"loss \d\.\d{4}", "loss x", record.getMessage()) for record in caplog.records]
    assert told == [
        "epoch 1/4  loss x  60 s, about 3 min left",
        "epoch 2/4  loss x  120 s, about 2 min left",
        "epoch 3/4  loss x  180 s, about 60 s left",
        "epoch 4/4  loss x  240 s",
    ]
    shown = [] if cached else [f"epoch {epoch} of 4, batch 1 of 2, about 2 min left" for epoch in (1, 2, 3, 4)]
    assert capsys.readouterr().err.splitlines() == shown


def test_evaluate_linear__all_diverged(data, backbone):
    with pytest.raises(FloatingPointError, match=r"all classifiers diverged \(learning rates 3e\+38\)"):
        evaluate_linear(backbone, data, data, SETTINGS, SMALL, [(3e38, 0.0)], cached=True)


def test_evaluate_linear__resumed_equals_uninterrupted(data, backbone, tmp_path, monkeypatch):
    grid, state = [(0.01, 0.0), (0.1, 0.1)], tmp_path / "state.pth"
    whole = evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid)

    original = linear.augmented_batches

    def interrupted(*args):
        if args[-1] == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(linear, "augmented_batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid, state=state)
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match="continue it with --resume"):
        evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid, state=state)
    assert evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid, state=state, resume=True) == whole
    # A finished training takes no further steps.
    monkeypatch.setattr(LinearSweep, "step", None)
    assert evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid, state=state, resume=True) == whole


FORGED = {
    "of a list": (lambda c: [c], r"different training: backbone None, not"),
    "identity of a tensor": (lambda c: c.update(identity=torch.ones(3)), "different training: backbone None, not"),
    "mode of a tensor": (lambda c: c["identity"].update(mode=torch.ones(3, 3)), r"training: mode tensor\(\[\[1"),
    "size of a tensor": (lambda c: c["identity"].update(size=torch.ones(3)), "different training: size tensor"),
    "grid of tensors": (lambda c: c["identity"].update(grid=[[torch.ones(2)] * 2]), r"training: grid \[\[tensor"),
    "protocol of text": (
        lambda c: c["identity"].update(protocol="a"),
        "training: protocol.epochs None, not 4",
    ),
    "no epoch": (lambda c: c.pop("epoch") and None, r"number of completed epochs \(of 4\) not recorded"),
    "epoch of text": (lambda c: c.update(epoch="2"), r"number of completed epochs \(of 4\) not recorded"),
    "epoch before the first": (lambda c: c.update(epoch=-1), r"number of completed epochs \(of 4\) not recorded"),
    "epoch after the last": (lambda c: c.update(epoch=5), r"number of completed epochs \(of 4\) not recorded"),
    "no sweep": (lambda c: c.pop("sweep") and None, "sweep is None, not a dict of weights"),
    "no weights": (lambda c: c["sweep"].pop("weights") and None, r"sweep cannot be loaded \(KeyError: 'weights'"),
    "weights of text": (lambda c: c["sweep"].update(weights="a"), "sweep.weights is 'a', not a list of 1"),
    "fewer weights": (lambda c: c["sweep"]["weights"].clear(), "sweep.weights is a list of 0, not a list of 1"),
    "bias of another shape": (
        lambda c: c["sweep"].update(biases=[torch.ones(3)]),
        r"biases\[0\] is a tensor of float32",
    ),
    "losses of a number": (lambda c: c["sweep"].update(losses=3.0), "sweep.losses is 3.0, not a tensor"),
    "optimizer of a list": (lambda c: c["sweep"].update(optimizer=[]), "sweep.optimizer is a list of 0, not a dict"),
    "momentum of text": (
        lambda c: c["sweep"]["optimizer"]["state"][0].update(momentum_buffer="a"),
        r"optimizer\.state\[0\]\.momentum_buffer is 'a', not a tensor",
    ),
    "rate that is no number": (
        lambda c: c["sweep"]["optimizer"]["param_groups"][0].update(lr=float("nan")),
        r"sweep\.optimizer\.param_groups\[0\]\.lr is nan, not 0\.1",
    ),
}


def test_resume__names_the_piece_of_a_state_that_was_forged(data, tmp_path):
    state, backbone, grid = tmp_path / "state.pth", nn.Sequential(nn.AvgPool2d(32), nn.Flatten()).eval(), [(0.1, 0.0)]
    evaluate_linear(backbone, data, data, SETTINGS, SMALL, grid, cached=True, state=state)
    whole = state.read_bytes()
    identity = torch.load(state, weights_only=True)["identity"]
    sweep = LinearSweep(grid, 3, 2, SMALL)
    for forge, message in FORGED.values():
        content = torch.load(io.BytesIO(whole), weights_only=True)
        torch.save(forge(content) or content, state)
        with pytest.raises(ValueError, match=rf"^{re.escape(str(state))}\b.*{message}[^\n]*$"):
            linear._resume(sweep, state, identity)
    # A diverged classifier is not one of these faults.
    content = torch.load(io.BytesIO(whole), weights_only=True)
    content["sweep"]["optimizer"]["state"][0]["momentum_buffer"].fill_(math.nan)
    content["sweep"]["weights"][0].fill_(math.nan)
    torch.save(content, state)
    assert linear._resume(sweep, state, identity) == 4
    assert sweep.weights[0].isnan().all()


def test_evaluate_linear__state_of_another_training(data, backbone, tmp_path):
    state = tmp_path / "state.pth"
    evaluate_linear(backbone, data, data, SETTINGS, SMALL, [(0.1, 0.0)], state=state, cached=True)
    others = {
        "grid": {"grid": [(0.2, 0.0)]},
        "protocol.epochs": {"protocol": Protocol(5, 8, steps=(2,), seed=1)},
        "mode": {"cached": False},
        "size": {"settings": FeatureSettings(size=33)},
        "storage": {"settings": FeatureSettings(size=32, storage=torch.float16)},
        "backbone": {"backbone": random_backbone("resnet18", 1)},
    }
    for name, change in others.items():
        given = {"backbone": backbone, "settings": SETTINGS, "protocol": SMALL, "grid": [(0.1, 0.0)], "cached": True}
        with pytest.raises(
            ValueError, match=f"belongs to a different training: {re.escape(name)} [^;]*, not [^;]*; remove"
        ):
            evaluate_linear(train=data, val=data, state=state, resume=True, **{**given, **change})
