import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from mocodet.common.encoders.resnet import build_resnet
from mocodet.detection.weights import convert as convert_module
from tests.commands import convert
from tests.encoders import checkpoint_of, encoder, numbered

TOOL = Path(__file__).parents[3] / "tools" / "convert_pretrain_to_detectron2.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=16).state_dict()
    tensors = {
        f"module.{encoder}.{name}": value for encoder in ("encoder_q", "encoder_k") for name, value in state.items()
    }
    path = tmp_path_factory.mktemp("pretrained") / "moco.pth.tar"
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": tensors, "optimizer": {}}, path)
    return path


def test_main__report(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.pkl"
    convert([str(source), str(output)])
    printed = capsys.readouterr().out
    assert "resnet18, MoCo query encoder, original format (arch resnet18, epoch 200)" in printed
    assert "100 tensors" in printed  # 20 convolutions and 20 batch norms of four
    assert "left out: 2 projection head" in printed
    assert "left out: 20 batch counters" in printed
    assert "left out: 122 outside the encoder" in printed
    assert "max|a-b| / max|b|" in printed
    for stage in ("res2", "res3", "res4", "res5"):
        assert f"\n  {stage}  " in printed
    assert settings_in(printed) == {
        'INPUT.FORMAT: "RGB"': "assumed",
        "MODEL.PIXEL_MEAN: [123.675, 116.280, 103.530]": "assumed",
        "MODEL.PIXEL_STD: [58.395, 57.120, 57.375]": "assumed",
        "MODEL.RESNETS.STRIDE_IN_1X1: False": "known",  # there are no 1x1 convolutions with a stride
        "MODEL.RESNETS.DEPTH: 18": "known",
        "MODEL.RESNETS.RES2_OUT_CHANNELS: 64": "known",
    }
    assert "batch norm, so MODEL.RESNETS.NORM can be FrozenBN, BN or SyncBN." in printed
    assert "Assumed: not recorded in the checkpoint." in printed
    assert "STEM_OUT_CHANNELS" not in printed
    assert len(pickle.loads(output.read_bytes())["model"]) == 100


def test_main__resnext(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A grouped network through the whole command, verification included, says what its detector must be told."""
    path = tmp_path / "supervised.pth"
    torch.save(checkpoint_of(encoder("resnext50_32x4d"), "supervised"), path)
    convert([str(path), str(tmp_path / "out.pkl")])
    printed = capsys.readouterr().out
    assert "resnext50_32x4d, mocodet classifier, mocodet format (iteration 41), names 'encoder.*'" in printed
    assert "left out: 2 projection head or classifier" in printed
    found = settings_in(printed)
    assert found["MODEL.RESNETS.STRIDE_IN_1X1: False"] == "assumed"
    shape = ["MODEL.RESNETS.DEPTH: 50", "MODEL.RESNETS.NUM_GROUPS: 32", "MODEL.RESNETS.WIDTH_PER_GROUP: 4"]
    assert [setting for setting in found if "RESNETS" in setting and "STRIDE" not in setting] == shape


def test_main__grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the layout, one channel is taken, four are refused; a checkpoint of ours leaves nothing to assume."""
    path = tmp_path / "grey.pth"
    network = encoder("resnet18", channels=1)
    torch.save({**checkpoint_of(network, "ours"), "method": {"name": "mine", "encoder": "encoder_q"}}, path)
    convert([str(path), str(tmp_path / "out.pkl")])
    printed = capsys.readouterr().out
    assert "\nVerified: " in printed
    assert [*settings_in(printed)][:3] == [
        'INPUT.FORMAT: "L"',
        "MODEL.PIXEL_MEAN: [117.038]",  # 0.299, 0.587 and 0.114 of ImageNet's
        "MODEL.PIXEL_STD: [57.530]",
    ]
    assert {*settings_in(printed).values()} == {"known"}
    assert "ssumed" not in printed
    assert ': INPUT.FORMAT L MODEL.PIXEL_MEAN "[117.038]" MODEL.PIXEL_STD "[57.53]" MODEL' in printed.splitlines()[-1]

    torch.save(numbered(encoder("resnet18", channels=4)), path)
    with pytest.raises(
        SystemExit, match=r"^error: .*grey\.pth: .* 4 channels .* greyscale or RGB, .* keep .*\[0, 1, 2"
    ):
        convert([str(path), str(tmp_path / "four.pkl")])
    torch.save(numbered(network), path)
    convert([str(path), str(tmp_path / "out.pkl"), "--no-verify"])
    assert settings_in(capsys.readouterr().out)['INPUT.FORMAT: "L"'] == "known"


def settings_in(printed: str) -> dict[str, str]:
    """The settings that the converter prints, each with how it is known."""
    return dict(re.findall(r"^  (\S+: .*?) +# (known|assumed)$", printed, re.MULTILINE))


@pytest.mark.parametrize("protocol", [2, 4])
def test_main__converted_already(source: Path, tmp_path: Path, protocol: int) -> None:
    first = tmp_path / "first.pkl"
    convert([str(source), str(first), "--no-verify"])
    first.write_bytes(pickle.dumps(pickle.loads(first.read_bytes()), protocol=protocol))
    told = rf"^error: {first} is already a \.pkl in detectron2's format and requires no conversion: .*--to torchvision"
    with pytest.raises(SystemExit, match=told):
        convert([str(first), str(tmp_path / "second.pkl")])
    assert not (tmp_path / "second.pkl").exists()


def test_main__small_stem(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    torch.save(build_resnet("resnet18", small_stem=True, num_classes=10).state_dict(), path)
    with pytest.raises(SystemExit, match=r"^error: .*small stem"):
        convert([str(path), str(tmp_path / "out.pkl")])
    assert list(tmp_path.iterdir()) == [path]


def test_main__no_verify(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise ValueError("verified all the same")

    monkeypatch.setattr(convert_module, "compare_stages", fail)
    convert([str(source), str(tmp_path / "out.pkl"), "--no-verify"])
    assert "Not verified" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"verified all the same$"):
        convert([str(source), str(tmp_path / "other.pkl")])
    assert not (tmp_path / "other.pkl").exists()


def test_main__prefix(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.pkl"
    convert([str(source), str(output), "--prefix", "module.encoder_k.", "--no-verify"])
    assert "names 'module.encoder_k.*'" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match=r"no encoder named 'base_encoder\.conv1\.\*', but does contain .*'module\.encoder_k"
    ):
        convert([str(source), str(output), "--prefix", "base_encoder"])


@pytest.mark.parametrize("problem", ["missing", "damaged", "folder"])
def test_main__error(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    bad = tmp_path / "bad.pth"
    if problem == "damaged":
        bad.write_bytes(source.read_bytes()[:100_000])
    if problem == "folder":
        bad.mkdir()
    output = tmp_path / "out.pkl"
    output.write_bytes(b"precious")
    with pytest.raises(SystemExit, match=r"^error: .*bad\.pth.*$") as caught:
        convert([str(bad), str(output)])
    assert "\n" not in caught.value.code
    assert capsys.readouterr().out == ""
    assert output.read_bytes() == b"precious"


def test_tool__exit_status(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"")
    done = subprocess.run(
        [sys.executable, TOOL, bad, tmp_path / "out.pkl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*bad\.pth is empty, not a checkpoint.*\n", done.stderr)
    assert list(tmp_path.iterdir()) == [bad]


@pytest.mark.parametrize("sign", ["old keys", "collapse"])
def test_main__signs_in_the_checkpoint(sign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Old keys may leave an encoder that is worth something; after collapse there is none."""
    path, output = tmp_path / "in.pth", tmp_path / "out.pkl"
    torch.save({**checkpoint_of(encoder("resnet18"), "ours"), "signs": {"told": [sign]}}, path)
    flags = [] if sign == "old keys" else ["--no-verify"]
    if flags:
        with pytest.raises(SystemExit, match=rf"in\.pth: verification failed: its training warned of {sign}: .*again"):
            convert([str(path), str(output)])
        assert not output.exists()
    convert([str(path), str(output), *flags])
    told = capsys.readouterr().out
    assert f"\n  warning: its training showed signs of not learning: {sign} (docs/evaluation.md" in told
    assert ("\nVerified: " in told) == (sign == "old keys")


def test_main__a_name_is_no_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert(["moco://v2_200ep", str(tmp_path / "out.pkl")])
    assert "moco://v2_200ep is a name for MODEL.WEIGHTS" in capsys.readouterr().err
