"""Resuming from checkpoints with a forged part gives an error of one line that names the file and the part."""

import io
import math

import pytest
import torch

from mocodet.detection.weights.settings import SETTINGS_KEY
from tests.rehearsal.fuzzing import tuned_checkpoint, tuning_in

NAME = "model_0000000.pth"


def optimizer(content: dict) -> dict:
    return content["trainer"]["_trainer"]["optimizer"]


FORGED = {
    "a list": (lambda c: [c], "contains a list; expected the checkpoint of a run"),
    "no model": (lambda c: c.pop("model"), "the checkpoint has no model"),
    "model of a list": (lambda c: c.update(model=[]), "the model in the checkpoint is a list"),
    "weight of text": (lambda c: c["model"].update({"layer.weight": "a"}), r"layer\.weight is a str, not a tensor"),
    "weight of another shape": (
        lambda c: c["model"].update({"layer.weight": torch.ones(3, 3)}),
        r"layer\.weight has shape \(3, 3\), expected \(2, 3\)",
    ),
    "no bias": (lambda c: c["model"].pop("layer.bias"), r"missing layer\.bias"),
    "weight that is not finite": (
        lambda c: c["model"]["layer.weight"].fill_(math.nan),
        r"layer\.weight contains values that are not finite",
    ),
    "settings of a tensor": (
        lambda c: c[SETTINGS_KEY].update({"INPUT.FORMAT": torch.ones(3)}),
        rf"{SETTINGS_KEY}\.INPUT\.FORMAT is a tensor of float32, shape \(3,\), not 'BGR'",
    ),
    "format of two lines": (
        lambda c: c[SETTINGS_KEY].update({"INPUT.FORMAT": "B\nG"}),
        rf"{SETTINGS_KEY}\.INPUT\.FORMAT is 'B\\nG', not 'BGR'",
    ),
    "classes of a number": (lambda c: c.update(classes=3), "classes are malformed"),
    "class of a dict": (lambda c: c["classes"]["names"].__setitem__(0, {}), "classes are malformed"),
    "class of two lines": (lambda c: c["classes"]["names"].__setitem__(0, "a\nb"), r"class 0 was a\\nb, is now cat"),
    "no trainer": (lambda c: c.pop("trainer"), "the checkpoint has no trainer"),
    "trainer of text": (lambda c: c.update(trainer="a"), "trainer does not record the last iteration"),
    "no iteration": (lambda c: c["trainer"].clear(), "trainer does not record the last iteration"),
    "iteration before the first": (lambda c: c["trainer"].update(iteration=-2), "trainer does not record the la"),
    "seed of text": (lambda c: c["trainer"]["draws"].update(SEED="3"), r"trainer\.draws\.SEED is not a valid seed"),
    "seed too large": (
        lambda c: c["trainer"]["draws"].update(SEED=1 << 32),
        r"trainer\.draws\.SEED is not a valid seed",
    ),
    "draws of a list": (lambda c: c["trainer"].update(draws=[1]), r"trainer\.draws is a list of 1, not a dict"),
    "batch of text": (lambda c: c["trainer"]["draws"].update({"SOLVER.IMS_PER_BATCH": "2"}), r"IMS_PER_BATCH is '2'"),
    "hooks of text": (lambda c: c["trainer"].update(hooks="a"), r"trainer\.hooks is 'a', not a dict"),
    "no steps": (
        lambda c: c["trainer"].pop("_trainer"),
        r"trainer cannot be loaded \(KeyError: '_trainer'\)",
    ),
    "no optimizer": (
        lambda c: c["trainer"]["_trainer"].pop("optimizer"),
        r"trainer cannot be loaded \(KeyError: 'optimizer'\)",
    ),
    "rate that is no number": (
        lambda c: optimizer(c)["param_groups"][0].update(lr=math.nan),
        r"optimizer\.param_groups\[0\]\.lr is nan, not",
    ),
    "no momentum": (
        lambda c: optimizer(c)["param_groups"][0].pop("momentum"),
        r"optimizer\.param_groups\[0\]\.momentum is None, not 0\.0",
    ),
    "momentum of another shape": (
        lambda c: optimizer(c)["state"][0].update(momentum_buffer=torch.ones(3)),
        r"optimizer\.state\[0\]\.momentum_buffer is a tensor of float32, shape \(3,\)",
    ),
    "momentum that is not finite": (
        lambda c: optimizer(c)["state"][0]["momentum_buffer"].fill_(math.inf),
        r"optimizer\.state\[0\]\.momentum_buffer is not finite",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_resume__names_the_piece_that_was_forged(name, tmp_path):
    forge, message = FORGED[name]
    content = torch.load(io.BytesIO(tuned_checkpoint()), weights_only=True)
    forged = forge(content)
    torch.save(forged if isinstance(forged, list) else content, tmp_path / NAME)
    (tmp_path / "last_checkpoint").write_text(NAME)
    with pytest.raises(ValueError, match=message) as refused:
        tuning_in(tmp_path)
    assert str(tmp_path / NAME) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_resume__takes_the_schedule_from_config_and_iteration(tmp_path):
    """Each parameter gets its own momentum, though the file has one number for all."""
    content = torch.load(io.BytesIO(tuned_checkpoint()), weights_only=True)
    expected = content["trainer"]["hooks"]["LRScheduler"]["last_epoch"]
    content["trainer"]["hooks"]["LRScheduler"].update(last_epoch=900, get_lr=3, step="a")
    shared = optimizer(content)["state"][0]
    shared["momentum_buffer"] = torch.ones(1).expand(shared["momentum_buffer"].shape)
    torch.save(content, tmp_path / NAME)
    (tmp_path / "last_checkpoint").write_text(NAME)
    run = tuning_in(tmp_path)
    assert run.scheduler.last_epoch == expected == 1
    run.take_step()
    assert run.optimizer.state[run.model.layer.weight]["momentum_buffer"].is_contiguous()


def test_resume__of_a_run_that_was_longer_there_is_nothing_left_to_train(tmp_path):
    content = torch.load(io.BytesIO(tuned_checkpoint()), weights_only=True)
    content["trainer"]["iteration"] = 5
    torch.save(content, tmp_path / NAME)
    (tmp_path / "last_checkpoint").write_text(NAME)
    run = tuning_in(tmp_path)
    assert run.start_iter == 6 > run.max_iter
