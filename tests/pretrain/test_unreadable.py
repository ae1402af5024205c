"""Pre-training on folders with unreadable files, which are replaced and listed, and removed before the run resumes."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from fvcore.common.config import CfgNode

from mocodet.pretrain.build import build_data
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.exclusion import keep_exclusion
from mocodet.pretrain.data.folders import ImageFolder
from mocodet.pretrain.data.replacing import Skipped
from mocodet.pretrain.data.skipped import SkippedImages
from tests.checkpoints import assert_equal_states, copy_checkpoint
from tests.pretrain.damaged import SORTS, png, write_damaged
from tests.pretrain.test_trainer import pretrain
from tests.processes import run_in_processes

MOST = ("DATA.MAX_UNREADABLE", 0.5)


@pytest.fixture(autouse=True)
def errors_as_raised(monkeypatch):
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for number in range(16):
        (folder / f"{number:02}.png").write_bytes(png(number))
    write_damaged(folder)
    return folder


@pytest.fixture(scope="module")
def whole_run(pool, tmp_path_factory) -> Path:
    """Two epochs of three iterations, with a checkpoint in the second epoch."""
    output = tmp_path_factory.mktemp("whole") / "run"
    pretrain(pool, output, *MOST, "SOLVER.MAX_EPOCHS", 2, "SOLVER.CHECKPOINT_PERIOD", 4)
    return output


def skipped(output: Path) -> list[str]:
    return [entry["file"] for entry in json.loads((output / "skipped.json").read_text())["skipped"]]


def final(output: Path) -> dict:
    return torch.load(output / "model_final.pth", weights_only=True)


def test_run__ends_and_lists_what_it_could_not_read(pool, whole_run):
    listed = json.loads((whole_run / "skipped.json").read_text())
    assert (listed["root"], listed["images"]) == (str(pool), 24)
    assert sorted(skipped(whole_run)) == sorted(SORTS)
    reasons = {entry["file"]: entry["reason"] for entry in listed["skipped"]}
    assert reasons["pipe.jpg"] == "cannot be read as an image (it is a named pipe, not a file)"
    assert reasons["huge.png"].startswith("has 10,000,000,000 pixels, more than the limit")
    assert reasons["text.jpg"] == "cannot be read as an image (unrecognised format)"
    assert all(0 <= entry["iteration"] < 6 and entry["time"][:2] == "20" for entry in listed["skipped"])
    assert (whole_run / "log.txt").read_text().count("replaced by another image") == 8, "each once"


@pytest.mark.parametrize("how", ["as it was", "removed and excluded"])
def test_resume__is_bit_identical_also_where_listed_files_were_removed(pool, whole_run, tmp_path, how):
    root, output, excluded = tmp_path / "pool", tmp_path / "run", tmp_path / "list.json"
    root.mkdir()
    for path in pool.glob("[0-9]*.png"):
        shutil.copy(path, root)
    copy_checkpoint(whole_run, output, "model_0000003.pth")
    shutil.copy(whole_run / "skipped.json", output)
    shutil.copy(whole_run / "skipped.json", excluded)
    overrides = {"removed and excluded": ("DATA.EXCLUDE", excluded)}.get(how, ())
    if how == "as it was":
        write_damaged(root)
    workers = 1 if how == "as it was" else 0
    overrides = (*MOST, *overrides, "SOLVER.MAX_EPOCHS", 2, "DATA.NUM_WORKERS", workers)
    pretrain(root, output, *overrides, flags=("--resume",))
    assert_equal_states(final(output), final(whole_run))
    entries = json.loads((output / "skipped.json").read_text())["skipped"]
    assert sorted(entry["file"] for entry in entries) == sorted(SORTS)
    assert {entry["settled"] for entry in entries} == {how != "as it was"}


def test_resume__refuses_where_others_were_removed(pool, whole_run, tmp_path):
    root = tmp_path / "pool"
    root.mkdir()
    for path in pool.glob("[1-9]*.png"):
        shutil.copy(path, root)
    write_damaged(root)
    copy_checkpoint(whole_run, tmp_path / "run", "model_0000003.pth")
    with pytest.raises(
        ValueError, match=r"this run has .*'dataset_size': 14.*\(DATA\.EXCLUDE lists files that were rem"
    ):
        pretrain(root, tmp_path / "run", *MOST, flags=("--resume",))


def drawn(cfg: CfgNode, resuming: bool) -> list[str]:
    """The names of the images of two epochs, in the order of the draws; equal images have equal names."""
    data = build_data(cfg, resuming=resuming)
    assert isinstance(data.dataset.images, ImageFolder)
    batches = islice(data.sampler, 2 * data.sampler.iterations_per_epoch)
    samples = (sample for batch in batches for sample in data.dataset.__getitems__(batch))
    return [Path(data.dataset.images.paths[sample["index"]]).name for sample in samples]


def test_build_data__a_run_begun_without_excluded_files_is_resumed_so(pool, tmp_path, caplog):
    """The list has grown, and files of the old and the new list are gone; the numbering is unchanged."""
    root, listed, cfg = tmp_path / "pool", tmp_path / "list.txt", get_cfg()
    shutil.copytree(pool, root, ignore=shutil.ignore_patterns("*.jpg", "[a-z]*.png"))
    cfg.DATA.ROOT, cfg.DATA.EXCLUDE, cfg.OUTPUT_DIR = str(root), str(listed), str(tmp_path)
    cfg.AUGMENTATION.CROP_SIZE, cfg.SOLVER.IMS_PER_BATCH, cfg.CONTRAST.QUEUE_SIZE = 8, 4, 4
    listed.write_text("00.png\n./01.png\n")
    began = drawn(cfg, resuming=False)
    assert sorted(set(began)) == [f"{number:02}.png" for number in range(2, 16)], "12 of 14 in each of two epochs"
    keep_exclusion(build_data(cfg).exclusion, tmp_path)
    assert drawn(cfg, resuming=True) == began
    listed.write_text(f'02.png\n{{"file": "{root}/03.png", "what": "damaged"}}\n')
    went_on = drawn(cfg, resuming=True)
    assert len(went_on) == len(began)
    assert [now for then, now in zip(began, went_on, strict=True) if then not in ("02.png", "03.png")] == [
        then for then in began if then not in ("02.png", "03.png")
    ]
    assert {"02.png", "03.png"} & set(began)
    assert not {"02.png", "03.png"} & set(went_on)
    for name in ("00.png", "03.png"):
        (root / name).unlink()
    assert drawn(cfg, resuming=True) == went_on
    build_data(cfg)
    assert "but none of them exists" not in caplog.text
    listed.write_text("pool/02.png\n")
    build_data(cfg)
    assert f"DATA.EXCLUDE {listed} lists 1 files, but none of them exists in {root}: pool/02.png; exp" in caplog.text
    listed.write_text("\n".join(path.name for path in root.iterdir()))
    with pytest.raises(ValueError, match=r"DATA\.EXCLUDE lists every image of"):
        build_data(cfg)


def test_skipped_images__end_a_run_at_too_many_and_forget_what_was_mended(tmp_path):
    root, output = tmp_path / "pool", tmp_path / "run"
    root.mkdir()
    output.mkdir()
    found = [Skipped(str(root / f"{number}.png"), "is damaged") for number in range(5)]
    for one in found:
        Path(one.name).write_text("damaged")

    def begin(resuming: bool) -> SkippedImages:
        (skipped := SkippedImages(output, str(root), 16, 2 / 16)).begin({"2.png"}, 0, resuming=resuming)
        return skipped

    kept = begin(resuming=False)
    (root / "7.png").write_bytes(png(7))
    kept.add([*found[:2], Skipped(str(root / "7.png"), "could not be read for a moment")][::2], 4)
    kept.add(found[:1], 5)
    with pytest.raises(
        ValueError, match=rf"^4 of 16 images .* DATA\.MAX_UNREADABLE 0\.125 allows; .* {output}/skipped\.json"
    ):
        kept.add(found[1:3], 6)
    assert skipped(output) == ["0.png", "7.png", "1.png", "2.png"]
    Path(found[0].name).unlink()
    kept = begin(resuming=True)
    assert skipped(output) == ["0.png", "1.png", "2.png"], "one can be read; one is gone, one excluded, one damaged"
    kept.add(found[3:4], 7)
    with pytest.raises(ValueError, match=r"^3 of 16 images"):
        kept.add(found[4:5], 8)
    begin(resuming=False)
    assert not (output / "skipped.json").exists()


def test_skipped_images__of_shards_are_not_excluded(tmp_path):
    with pytest.raises(ValueError, match=r"Write the shards again with mocodet shards --skip-damaged, and start a new"):
        SkippedImages(tmp_path, "", 16, 0).add([Skipped("a.tar: 1.jpg", "is damaged")], 0)


def add_in_process(output: str) -> None:
    one = SkippedImages(output, "", 100, 0.5)
    for number in range(5):
        one.add([Skipped(f"{comm.get_rank()}-{number}.jpg", "damaged"), Skipped("both.jpg", "damaged")], number)


def test_skipped_images__of_all_processes_are_in_one_file(tmp_path):
    run_in_processes(add_in_process, str(tmp_path))
    own = [f"{rank}-{number}.jpg" for rank in (0, 1) for number in range(5)]
    assert sorted(skipped(tmp_path)) == [*own, "both.jpg"]
