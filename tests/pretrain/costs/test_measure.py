"""Steps measured on this machine: what runs, what is reported, and what grows with the data set."""

import multiprocessing
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mocodet.pretrain.config import check_config
from mocodet.pretrain.costs import run as command
from mocodet.pretrain.costs.count import RunCosts, count_run
from mocodet.pretrain.costs.measure import Measured, measure_run, peak_resident, small_run
from mocodet.pretrain.costs.report import report
from mocodet.pretrain.trainer import PretrainTrainer
from tests.commands import costs as run_costs
from tests.pretrain.costs.test_count import BATCH, CLASSES, DIM, SIZE, config

IMAGES = 3 * BATCH


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        (folder / str(number % CLASSES)).mkdir(exist_ok=True)
        Image.effect_noise((40, 50), 90).convert("RGB").save(folder / str(number % CLASSES) / f"{number:02}.png")
    return folder


@pytest.fixture
def batches(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The batches that the real trainer's steps receive."""
    seen = []
    step = PretrainTrainer.run_step

    def watched(trainer: PretrainTrainer) -> None:
        fetch = trainer.delivery.next

        def keep() -> dict[str, torch.Tensor]:
            seen.append(fetch())
            return seen[-1]

        with monkeypatch.context() as patch:
            patch.setattr(trainer.delivery, "next", keep)
            step(trainer)

    monkeypatch.setattr(PretrainTrainer, "run_step", watched)
    return seen


def test_measure__some_of_the_images_that_are_there(images, batches):
    changes = {"DATA.ROOT": str(images), "DATA.CACHE": "ram", "DATA.NUM_WORKERS": 1, "SOLVER.CHECKPOINT_PERIOD": 1}
    measured = measure_run(config("supervised", **changes), 2, 1000, 2)
    assert measured.data == f"{4 * BATCH // 2} images of {images}"
    assert len(batches) == 2 + 2 + measured.steps  # batches that the loader had ready are not timed
    assert {len(batch["index"]) for batch in batches} == {BATCH // 2}
    assert 0 <= measured.waiting <= measured.seconds
    pixels_and_sizes = 40 * 50 * 3 + 2 * 8
    assert measured.memory["DATA.CACHE ram for 1,000 images"] == 1000 * pixels_and_sizes
    assert not multiprocessing.active_children()
    assert {"main memory of the process, peak", "main memory of each of 1 loader processes, peak"} < set(
        measured.memory
    )


def test_measure__drawn_photographs_and_a_bank_that_grows(batches):
    cfg = config("memory_bank", **{"DATA.ROOT": "no/such/folder"})
    before = cfg.dump()
    measured = measure_run(cfg, 1, 10**9, 1)
    assert measured.data.startswith(f"{BATCH} generated photographs of 224 pixels (DATA.ROOT ")
    assert len(batches) == 2 + 1
    assert {tuple(batch["query"].shape) for batch in batches} == {(BATCH, 3, SIZE, SIZE)}
    more = 10**9 - BATCH
    assert measured.memory[f"method state for {more:,} more images"] == 4 * DIM * more
    assert cfg.dump() == before


@pytest.mark.parametrize(
    ("method", "key", "changes"),
    [
        ("supervised", "DATA.ANNOTATIONS", {"DATA.ANNOTATIONS": "train.txt"}),
        ("moco", "DATA.SHARDS", {"DATA.SHARDS": "index.json", "DATA.ROOT": ""}),
    ],
)
def test_small_run__says_what_it_does_not_read(method, key, changes, images, tmp_path):
    small, data = small_run(config(method, **{"DATA.ROOT": str(images), **changes}), 1, 1000, tmp_path)
    assert data == f"{BATCH} generated photographs of 224 pixels (--measure does not read {key})"
    check_config(small)


def test_small_run__without_what_the_run_leaves_out(images, tmp_path):
    out = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))[::3]
    (tmp_path / "exclude.txt").write_text("\n".join(out))
    changes = {"DATA.ROOT": str(images), "DATA.EXCLUDE": str(tmp_path / "exclude.txt")}
    small, _ = small_run(config("moco", **changes), 1, 1000, tmp_path)
    linked = {str(path.relative_to(small.DATA.ROOT)) for path in Path(small.DATA.ROOT).rglob("*.png")}
    assert len(linked) == IMAGES - len(out)
    assert linked.isdisjoint(out)


def test_measure__too_few_images_for_a_batch(images):
    cfg = config("moco", 2 * IMAGES, **{"DATA.ROOT": str(images)})
    with pytest.raises(ValueError, match=rf"contains {IMAGES} images, fewer than the batch of one process, 72"):
        measure_run(cfg, 1, 1000, 1)


@pytest.fixture(scope="module")
def counted() -> RunCosts:
    return count_run(config("moco"), 2, 1200)


@pytest.mark.parametrize(
    ("seconds", "step", "rate", "told"),
    [(0.5, "0.5 s, including 0.125 s of waiting", "24", "2 min"), (90.0, "90 s, including 0.125 s", "0", "5:00 h")],
)
def test_report__hours_or_minutes_of_the_run(counted, seconds, step, rate, told):
    assert counted.iterations == 200
    measured = Measured("CPU, 1 thread(s)", "12 generated photographs", 10, seconds, 0.125, {"main memory": 3e9})
    text = report(counted, {"V100": 125e12}, None, 1e9, 1e5, measured)
    table = text.split("**On this machine** (CPU, 1 thread(s))")[1].split("**Arithmetic**")[0]
    cells = dict(re.findall(r"^\| (.+?) +\| (.+?) +\|$", table, flags=re.MULTILINE))
    assert cells["one step"].startswith(step)
    assert cells["images/s"] == rate
    assert cells["200 steps"] == told
    assert cells["main memory"] == "3 GB"
    assert "Communication between the processes" in table
    assert f"a step takes {1000 * seconds:.0f} ms" in text


def test_main__measures_on_request(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(config("moco").dump())
    asked = []

    def measured(cfg: object, *rest: int) -> Measured:
        asked.append(rest)
        return Measured("a device", "images", 7, 0.01, 0.0, {})

    monkeypatch.setattr(command, "measure_run", measured)
    arguments = ["--config-file", str(tmp_path / "small.yaml"), "--images", "100"]
    run_costs([*arguments, "--measure", "7"])
    printed = capsys.readouterr().out
    assert asked == [(1, 100, 7)]
    assert "**Input** at 0.0027 min" in printed  # 16 steps


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="without Linux there is no other source")
def test_peak_resident__is_at_least_what_is_resident_now():
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_resident(os.getpid()) >= resident
