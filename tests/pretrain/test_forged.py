"""Resuming from a checkpoint with a forged piece: the error is one line that names the file and the piece."""

import io
import re

import pytest
import torch

from tests.rehearsal.fuzzing import SmallRun, _run_checkpoint

ADAM = torch.optim.AdamW([torch.ones(1)]).state_dict()
FORGED = {
    "no optimizer": (lambda c: c.pop("optimizer"), "the checkpoint has no optimizer"),
    "another optimizer": (lambda c: c.update(optimizer=ADAM), r"optimizer\.param_groups\[0\]\.momentum is None, not 0"),
    "optimizer of text": (lambda c: c.update(optimizer="SGD"), "optimizer is 'SGD', not the state of an optimizer"),
    "rate of text": (lambda c: c["optimizer"]["param_groups"][0].update(lr="0.1"), r"\.lr is '0\.1', not 0\.0"),
    "momentum of another shape": (
        lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.ones(3)),
        r"optimizer\.state\[0\]\.momentum_buffer is a tensor of float32, shape \(3,\), not a tensor of float32",
    ),
    "momentum that is not finite": (
        lambda c: c["optimizer"]["state"][0]["momentum_buffer"].fill_(torch.inf),
        r"optimizer\.state\[0\]\.momentum_buffer is not finite",
    ),
    "queue that is not finite": (lambda c: c["model"]["queue"].fill_(torch.nan), "queue contains values that are"),
    "fewer parameters": (lambda c: c["optimizer"]["param_groups"][0]["params"].pop(), "optimizer's parameters"),
    "model of a list": (lambda c: c.update(model=[]), "the model in the checkpoint is a list"),
    "tensor of text": (lambda c: c["model"].update(queue="full"), "queue is a str, not a tensor"),
    "integers": (lambda c: c["model"].update(queue=torch.ones(2, 6, dtype=torch.int8)), "queue is torch.int8"),
    "rng of a dict": (lambda c: c.update(rng={}), "rng is a dict, not a list"),
    "rng of another size": (lambda c: c.update(rng=[{"cpu": torch.ones(3, dtype=torch.uint8)}]), "rng.cpu is a tensor"),
    "no generator": (lambda c: c.update(rng=[{}]), "rng has no state for the CPU generator"),
    "shuffle of numbers": (lambda c: c.update(shuffle={"generator": 3}), "shuffle.generator is 3, not a tensor"),
    "trainer without iteration": (
        lambda c: c["trainer"].pop("iteration"),
        "trainer does not record the last iterat",
    ),
    "hook of text": (lambda c: c["trainer"].update(hooks="a"), "trainer.hooks is 'a', not a dict"),
    "sampler of a list": (lambda c: c.update(sampler=[1]), "sampler is a list of 1, not a dict"),
    "signs of a number": (lambda c: c.update(signs={"told": 3}), "signs.told is 3, not a list"),
    "signs of dicts": (lambda c: c.update(signs={"told": [{}]}), r"signs cannot be loaded \(TypeError: unhashable"),
}


def checkpoint() -> dict:
    return torch.load(io.BytesIO(_run_checkpoint()), weights_only=True)


@pytest.mark.parametrize("name", FORGED)
def test_resume__names_the_piece_that_was_forged(name, tmp_path):
    forge, message = FORGED[name]
    content = checkpoint()
    forge(content)
    torch.save(content, tmp_path / "model_0000000.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}/model_0000000\.pth: .*{message}"):
        SmallRun(tmp_path).checkpointer.resume()


def test_resume__a_file_says_not_how_updates_are_computed(tmp_path):
    """Neither by methods of the schedule nor by the way of the optimizer."""
    content = checkpoint()
    content["optimizer"]["param_groups"][0]["fused"] = True
    content["optimizer"]["state"].pop(0)
    content["trainer"]["hooks"]["LRScheduler"]["get_lr"] = 3
    torch.save(content, tmp_path / "model_0000000.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    run = SmallRun(tmp_path)
    run.checkpointer.resume()
    run.step()
    assert run.scheduler.last_epoch == 2
    assert run.optimizer.param_groups[0]["fused"] is None


def test_resume__a_damaged_last_checkpoint_names_the_newest_whole_one(tmp_path):
    for iteration in (0, 1, 2):
        content = {**checkpoint(), "iteration": iteration}
        torch.save(content, tmp_path / f"model_{iteration:07d}.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    path = tmp_path / "model_0000002.pth"
    path.write_bytes(path.read_bytes()[:500])
    whole = re.escape(f"newest intact checkpoint is {tmp_path / 'model_0000001.pth'}, saved after 2 iterations; to ")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} cannot be read .*{whole}"):
        SmallRun(tmp_path).checkpointer.resume()
