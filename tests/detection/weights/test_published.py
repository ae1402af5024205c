"""``moco://`` names against a server on this machine, with a ResNet-18 in the place of the published weights."""

import hashlib
import io
import json
import logging
import multiprocessing
import pickle
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import PathManager
from torch import nn

from mocodet import configs
from mocodet.common import download as download_module
from mocodet.common.download import DownloadError
from mocodet.detection.data import register_datasets
from mocodet.detection.training.preflight import check_weights
from mocodet.detection.training.trainer import Trainer
from mocodet.detection.weights import convert
from mocodet.detection.weights import published as weights
from mocodet.detection.weights.published import PUBLISHED, local_weights
from tests.detection.tiny import empty_config, make_voc, options
from tests.encoders import encoder
from tests.servers import serve

NAME = "moco://v2_200ep"
FILE = "moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar"
SETTINGS = (
    "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375],"
    " MODEL.RESNETS.STRIDE_IN_1X1 False, MODEL.RESNETS.DEPTH 18, MODEL.RESNETS.RES2_OUT_CHANNELS 64"
)


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return encoder("resnet18").eval()


@pytest.fixture(scope="module")
def checkpoint(resnet18) -> bytes:
    """What the original code saves, without the key encoder and the optimizer."""
    state = {f"module.encoder_q.{name}": value for name, value in resnet18.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state}, buffer)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mocodet"


@pytest.fixture
def site(checkpoint, cache, monkeypatch):
    """A mirror of the published files, of which only the name and the sum of one are other than the real ones."""
    monkeypatch.setattr(download_module, "FIRST_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(PUBLISHED, "v2_200ep", hashlib.md5(checkpoint).hexdigest()[:8])
    with serve(**{f"mirror/{FILE}": checkpoint}) as site:
        monkeypatch.setenv("MOCODET_WEIGHTS_URL", f"{site.url}/mirror/")
        yield site


@pytest.fixture(scope="module")
def cached(checkpoint, tmp_path_factory) -> Path:
    """A cache in which the name has been used before; only to be copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("used")))
        patch.setitem(PUBLISHED, "v2_200ep", hashlib.md5(checkpoint).hexdigest()[:8])
        weights.cache_folder().mkdir()
        (weights.cache_folder() / Path(FILE).name).write_bytes(checkpoint)
        local_weights(NAME)
        return weights.cache_folder()


@pytest.fixture
def used(site, cache, cached):
    """The site and the cache after a first use that is not counted."""
    shutil.copytree(cached, cache)
    return site


@pytest.fixture
def log(caplog, monkeypatch):
    """What the module logs, also where an earlier test has given detectron2's loggers handlers of their own."""
    monkeypatch.setattr(weights.logger, "propagate", False)
    weights.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger=weights.logger.name):
        yield caplog
    weights.logger.removeHandler(caplog.handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def config() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    return cfg


def assert_computes_the_same(backbone: nn.Module, reference: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = nn.Sequential(*list(reference.children())[:-2])(images)  # all but pooling and fc
        torch.testing.assert_close(backbone.eval()(images)["res5"], expected, rtol=1e-4, atol=1e-4)


def test_published__are_those_of_the_original_readme(monkeypatch):
    asked = {}
    monkeypatch.delenv(weights.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(weights, "download", lambda url, path, md5: asked.update({url: md5}))
    for name in PUBLISHED:
        weights._fetch(name)
    assert asked == {
        f"https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_{name}/moco_{name}_pretrain.pth.tar": md5
        for name, md5 in (("v1_200ep", "b251726a"), ("v2_200ep", "59fd9945"), ("v2_800ep", "a04e12f8"))
    }
    assert set(PUBLISHED) == {"v1_200ep", "v2_200ep", "v2_800ep"}


def test_name__detectron2s_own_checkpointer_takes_it(site, cache, resnet18, log):
    backbone = build_backbone(config())
    DetectionCheckpointer(backbone).load(NAME)
    assert_computes_the_same(backbone, resnet18)
    assert site.requests == [(f"/mirror/{FILE}", None)]
    licence = [record for record in log.records if "CC BY-NC 4.0" in record.message]
    assert [record.levelname for record in licence] == ["WARNING"]
    assert log.text.count(f"requires {SETTINGS}\n") == 1

    # The second time nothing is fetched, converted, or said of the licence.
    log.clear()
    site.files.clear()
    (cache / Path(FILE).name).unlink()
    backbone = build_backbone(config())
    DetectionCheckpointer(backbone).load(f"{NAME}?matching_heuristics=True")
    assert_computes_the_same(backbone, resnet18)
    assert len(site.requests) == 1
    assert "CC BY-NC" not in log.text
    assert log.text.count(f"requires {SETTINGS}\n") == 1


def test_name__models_in_several_processes(used, resnet18, tmp_path):
    """There detectron2 asks for the local file before it takes the options off the name."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        backbone = build_backbone(config())
        DetectionCheckpointer(nn.parallel.DistributedDataParallel(backbone)).load(f"{NAME}?matching_heuristics=True")
    finally:
        torch.distributed.destroy_process_group()
    assert_computes_the_same(backbone, resnet18)


def test_name__our_trainer_takes_it(used, resnet18, tmp_path):
    train, test = make_voc(tmp_path / "data", 2), make_voc(tmp_path / "data", 1, "test")
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path("pascal_voc_R_50_DC5_24k_moco.yaml")))
    cfg.merge_from_list(options(tmp_path / "out", train, test, MODEL__WEIGHTS=NAME))
    check_weights(cfg, resume=False, eval_only=False)
    register_datasets(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert torch.equal(trainer.model.backbone.bottom_up.stem.conv1.weight, resnet18.conv1.weight)


def test_name__file_manager_opens_it(used):
    with PathManager.open(NAME, "rb") as handle:
        assert pickle.load(handle)["__author__"] == "mocodet"
    with pytest.raises(ValueError, match="only be opened for reading bytes"):
        PathManager.open(NAME, "w")


def test_name__first_use_draws_no_random_number(site):
    """A run that converts starts from the same numbers as one that finds the file converted."""
    before = torch.get_rng_state()
    local_weights(NAME)
    assert torch.equal(torch.get_rng_state(), before)


def test_name__wrong_md5(site, cache, monkeypatch, checkpoint, log):
    found = hashlib.md5(checkpoint).hexdigest()
    monkeypatch.setitem(PUBLISHED, "v2_200ep", "59fd9945")
    with pytest.raises(DownloadError, match=rf"its MD5 sum is {found}, expected 59fd9945…"):
        local_weights(NAME)
    assert names(cache) == []
    assert "CC BY-NC" not in log.text


def test_name__broken_transfer_goes_on_in_the_next_call(site, cache, monkeypatch, checkpoint, log):
    monkeypatch.setattr(download_module, "ATTEMPTS", 2)
    site.cut = 1000
    with pytest.raises(DownloadError, match=rf"2000 of {len(checkpoint)} bytes arrived.*run the command again"):
        local_weights(NAME)
    assert names(cache) == [f"{Path(FILE).name}.part", f"{Path(FILE).name}.part.json"]
    assert "CC BY-NC" not in log.text
    site.cut = None
    assert local_weights(NAME).is_file()
    assert [wanted for _, wanted in site.requests] == [None, "bytes=1000-", "bytes=2000-"]
    assert site.sent == [1000, 1000, len(checkpoint) - 2000]
    assert log.text.count("CC BY-NC") == 1


def test_name__offline_then_put_there_by_hand(site, cache, monkeypatch, checkpoint, log):
    with socket.socket() as taken:  # bound, so that nobody else listens there, and never listening
        taken.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("MOCODET_WEIGHTS_URL", base)
        place = cache / "moco_v2_200ep_pretrain.pth.tar"
        message = rf"cannot be reached .* download {base}/{FILE} in .* save it as {place}; set MOCODET_WEIGHTS_URL"
        with pytest.raises(DownloadError, match=message) as caught:
            local_weights(NAME)
        assert "\n" not in str(caught.value)
        assert names(cache) == []
        place.write_bytes(checkpoint)
        assert local_weights(NAME).is_file()
    assert "CC BY-NC" not in log.text
    assert site.requests == []


def test_name__what_computes_something_else_is_not_cached(site, cache, monkeypatch):
    monkeypatch.setattr(convert, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="verification failed at res2, res3, res4, res5"):
        local_weights(NAME)
    assert not [name for name in names(cache) if name.endswith((".pkl", ".json"))]


@pytest.mark.parametrize("damage", ["cut", "without a record", "with half a record"])
def test_name__damaged_cache_is_made_anew(used, damage):
    converted = local_weights(NAME)
    content, record = converted.read_bytes(), converted.with_suffix(".json")
    if damage == "cut":
        converted.write_bytes(content[:-1])
    elif damage == "without a record":
        record.unlink()
    else:
        record.write_text(record.read_text()[:20])
    assert local_weights(NAME) == converted
    assert converted.read_bytes() == content
    assert json.loads(record.read_text())["md5"] == hashlib.md5(content).hexdigest()
    assert used.requests == [], "the download was still there"


@pytest.mark.parametrize("older", [True, False], ids=["another format", "before there was a format"])
def test_name__what_another_version_converted_is_made_anew(used, older):
    converted = local_weights(NAME)
    content, path = converted.read_bytes(), converted.with_suffix(".json")
    record = json.loads(path.read_text())
    converted.write_bytes(b"of a converter with a mistake")
    record |= {"md5": hashlib.md5(converted.read_bytes()).hexdigest(), "format": record["format"] - 1}
    if not older:
        del record["format"]
    path.write_text(json.dumps(record))
    assert local_weights(NAME).read_bytes() == content
    assert used.requests == [], "the download was still there"


def resolve(md5: str, marks: str, together) -> None:
    """Do it in a process of its own, and leave a mark for each conversion."""
    PUBLISHED["v2_200ep"] = md5
    convert_file = weights.convert_file

    def marked(*args: object, **kwargs: object):
        with Path(marks).open("a") as handle:
            handle.write("x")
        return convert_file(*args, **kwargs)

    weights.convert_file = marked
    together.wait(120)
    local_weights(NAME)


def test_name__two_processes_at_once(site, cache, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    together, marks = spawn.Barrier(2), tmp_path / "marks"
    arguments = (PUBLISHED["v2_200ep"], str(marks), together)
    processes = [spawn.Process(target=resolve, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert site.requests == [(f"/mirror/{FILE}", None)]
    assert marks.read_text() == "x"
    assert len([name for name in names(cache) if name.endswith(".pkl")]) == 1


def test_file__relative_and_absolute(cache, resnet18, checkpoint, tmp_path, monkeypatch, log):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.pth.tar").write_bytes(checkpoint)
    monkeypatch.chdir(tmp_path)
    for name in ("moco://runs/mine.pth.tar", f"moco://{tmp_path}/runs/mine.pth.tar"):
        backbone = build_backbone(config())
        DetectionCheckpointer(backbone).load(name)
        assert_computes_the_same(backbone, resnet18)
    assert [name for name in names(cache) if name.endswith(".pkl")] == [
        f"mine-{hashlib.md5(checkpoint).hexdigest()}.pkl"
    ]
    assert log.text.count(f"requires {SETTINGS}\n") == 2
    assert len(re.findall(r"Converted the MoCo.* \(resnet18\) in runs/mine\.pth\.tar\n", log.text)) == 1
    assert "CC BY-NC" not in log.text


def test_file__changed_is_converted_anew(cache, resnet18, checkpoint, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(checkpoint)
    first = local_weights(f"moco://{path}")
    state = {f"encoder_q.{name}": value.clone() for name, value in resnet18.state_dict().items()}
    state["encoder_q.conv1.weight"] *= 2
    torch.save({"model": state}, path)
    second = local_weights(f"moco://{path}")
    one, other = (pickle.loads(file.read_bytes())["model"]["stem.conv1.weight"] for file in (first, second))
    assert (other == 2 * one).all()


def test_file__cannot_be_converted(cache, checkpoint, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(checkpoint[: len(checkpoint) // 2])
    with pytest.raises(ValueError, match=rf"^{path} cannot be read as a checkpoint"):
        local_weights(f"moco://{path}")
    assert names(cache) == []
    (tmp_path / "mine.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a \.pkl file is already converted; specify its path without moco://$"):
        local_weights(f"moco://{tmp_path}/mine.pkl")


@pytest.mark.parametrize("name", ["moco://v3_300ep", "moco://absent/moco.pth", "moco://", "moco:///"])
def test_unknown__name(cache, name):
    known = "moco://v1_200ep, moco://v2_200ep, moco://v2_800ep"
    with pytest.raises(ValueError, match=rf"^{name}: .* is neither an existing file nor .*, which are {known}$"):
        local_weights(name)
    with pytest.raises(ValueError, match="nor the name of published weights"):
        DetectionCheckpointer(nn.Linear(2, 2)).load(name)


def test_unknown__option(cache):
    with pytest.raises(
        ValueError, match=r"unknown options 'heuristics=True'; the only supported option is 'matching_heuristics=True'"
    ):
        local_weights(f"{NAME}?heuristics=True")


def test_cache__default_is_where_detectron2_keeps_its_own(monkeypatch):
    monkeypatch.delenv("FVCORE_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert weights.cache_folder() == Path("/home/somebody/.torch/iopath_cache/mocodet")


def test_cache__that_cannot_be_written(site, cache):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=str(cache.parent)):
        local_weights(NAME)
