import pytest

from tests.commands import prepare_data


def test_lvis__needs_the_images_of_its_parts(tmp_path, capsys):
    command = ["lvis", "--root", str(tmp_path), "--dry-run"]
    with pytest.raises(SystemExit, match=r"train needs .*train2017, which is missing; .* prepare coco first"):
        prepare_data(command)
    (tmp_path / "coco/train2017").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"val needs .*val2017, which is missing"):
        prepare_data(command)
    prepare_data([*command, "--only", "train"])  # needs no images of val
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("to do: download")
    assert "lvis_v0.5_train.json" in line
