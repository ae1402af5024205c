from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.common.checks.findings import Tally
from mocodet.common.checks.voc import check
from mocodet.common.prepare import trainaug
from mocodet.common.prepare.datasets import VOC, plan_of
from mocodet.common.prepare.steps import Plan, prepare
from tests.commands import prepare_data
from tests.common.checks.good import HEIGHT, WIDTH, jpeg, png, voc_xml, write_list
from tests.common.prepare.packed import make_tar

SBD = "benchmark_RELEASE/dataset"


def mask(value: int) -> np.ndarray:
    values = np.full((HEIGHT, WIDTH), value, np.uint8)
    values[:3] = 0
    return values


def sbd_mat(values: np.ndarray) -> bytes:
    """Write a mask as SBD does: a structure GTcls with Boundaries, Segmentation and CategoriesPresent."""
    io = pytest.importorskip("scipy.io")
    sparse = pytest.importorskip("scipy.sparse")
    boundaries = np.empty((20, 1), object)
    for number in range(20):
        boundaries[number, 0] = sparse.csc_matrix((HEIGHT, WIDTH))
    buffer = BytesIO()
    content = {"Boundaries": boundaries, "Segmentation": values, "CategoriesPresent": np.unique(values)[1:]}
    io.savemat(buffer, {"GTcls": content})
    return buffer.getvalue()


def make_voc2012(root: Path) -> None:
    """Write VOC 2012 as unpacked: a is in train, b in val, c and d have no masks of VOC's."""
    folder = root / "VOC2012"
    for name in "abcd":
        jpeg(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(name))
    write_list(folder / "ImageSets/Main/trainval.txt", tuple("abc"))
    write_list(folder / "ImageSets/Segmentation/train.txt", ("a",))
    write_list(folder / "ImageSets/Segmentation/val.txt", ("b",))
    for name, value in (("a", 255), ("b", 2)):
        png(folder / "SegmentationClass" / f"{name}.png", mask(value), palette=True)


@pytest.fixture
def with_sbd(tmp_path):
    make_voc2012(tmp_path)
    # SBD also has masks for VOC's images; VOC's take precedence.
    mats = {f"{SBD}/cls/{name}.mat": sbd_mat(mask(value)) for name, value in zip("abcd", (7, 8, 9, 20), strict=True)}
    lists = {f"{SBD}/train.txt": b"a\nc\n", f"{SBD}/val.txt": b"b\nd\n"}
    content = make_tar({**mats, **lists, f"{SBD}/img/a.jpg": b"", "benchmark_RELEASE/README": b""}, "w:gz")
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/benchmark.tgz").write_bytes(content)
    (archive,) = [archive for archive in VOC if archive.part == "trainaug"]
    prepare(
        Plan([replace(archive, url=None, md5=None, size=len(content), unpacked=0)]), tmp_path, tmp_path / "archives"
    )
    return tmp_path


def is_made(root: Path) -> bool:
    (step,) = plan_of("voc", root).further
    return step.done()


def test_trainaug__masks_and_list(with_sbd, monkeypatch):
    assert not is_made(with_sbd)
    trainaug.make(with_sbd, images=3)
    assert is_made(with_sbd)
    folder = with_sbd / "VOC2012"
    assert (folder / "ImageSets/Segmentation/trainaug.txt").read_text() == "a\nc\nd\n"
    expected = {"a": 255, "b": 2, "c": 9, "d": 20}
    assert sorted(path.stem for path in (folder / "SegmentationClassAug").iterdir()) == sorted(expected)
    for name, value in expected.items():
        with Image.open(folder / "SegmentationClassAug" / f"{name}.png") as image:
            assert image.mode == "L"
            assert (np.asarray(image) == mask(value)).all()
    tally = Tally()
    assert list(check(with_sbd, tally, any_size=True)) == []
    assert tally.counts["masks"] == 5  # two of VOC's, three of trainaug's
    assert tally.notes == [f"{folder}: 1 images are not in any list of ImageSets/Main"]  # d: trainaug alone has it


def test_trainaug__goes_on_where_it_stopped(with_sbd, monkeypatch):
    read = []

    def stop(root: Path, name: str) -> np.ndarray:
        read.append(name)
        if read == ["c", "d"]:
            raise KeyboardInterrupt
        return mask(1)

    monkeypatch.setattr(trainaug, "_sbd_mask", stop)
    with pytest.raises(KeyboardInterrupt):
        trainaug.make(with_sbd, images=3)
    assert not is_made(with_sbd)
    trainaug.make(with_sbd, images=3)
    assert read == ["c", "d", "d"]


def test_trainaug__bad_input(with_sbd, tmp_path):
    with pytest.raises(ValueError, match="contain 3 images for trainaug, but the published list has 10,582"):
        trainaug.make(with_sbd)
    for content, message in (
        (b"MATLAB", "is not a MATLAB file"),
        (sbd_mat(mask(21)), "has the labels 21; SBD's labels are 0 to 20"),
        (sbd_mat(mask(1).astype(float)), "has no mask GTcls.Segmentation"),
    ):
        (with_sbd / "sbd/cls/c.mat").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            trainaug.make(with_sbd, images=3)
    (with_sbd / "sbd/cls/c.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.mat does not exist, but SBD's lists contain it"):
        trainaug.make(with_sbd, images=3)
    (with_sbd / "sbd/train.txt").unlink()
    with pytest.raises(FileNotFoundError, match="trainaug needs VOC 2012 and SBD"):
        trainaug.make(with_sbd, images=3)
    assert not is_made(with_sbd)


def test_trainaug__again_makes_all_masks_anew(with_sbd):
    trainaug.make(with_sbd, images=3)
    folder = with_sbd / "VOC2012/SegmentationClassAug"
    (folder / "c.png").write_bytes(b"")
    (step,) = plan_of("voc", with_sbd).further
    assert step.done()
    step.forget()
    assert not step.done()
    trainaug.make(with_sbd, images=3)
    with Image.open(folder / "c.png") as image:
        assert (np.asarray(image) == mask(9)).all()


def test_trainaug__without_voc_2012_nothing_is_downloaded(tmp_path, capsys):
    message = r"trainaug needs .*train\.txt, which is missing; .* --only 2012 trainaug"
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit, match=message):
            prepare_data(["voc", "--only", "trainaug", "--root", str(tmp_path), *more])
    prepare_data(["voc", "--only", "2012", "trainaug", "--root", str(tmp_path), "--dry-run"])
    assert capsys.readouterr().out.count("to do: ") == 3
    make_voc2012(tmp_path)
    prepare_data(["voc", "--only", "trainaug", "--root", str(tmp_path), "--dry-run"])
    assert capsys.readouterr().out.count("to do: ") == 2


def test_trainaug__masks_from_elsewhere_make_sbd_needless(tmp_path, capsys):
    make_voc2012(tmp_path)
    png(tmp_path / "VOC2012/SegmentationClassAug/a.png", mask(1))
    write_list(tmp_path / "VOC2012/ImageSets/Segmentation/trainaug.txt", ("a",))
    prepare_data(["voc", "--only", "trainaug", "--root", str(tmp_path)])
    assert "already exists and is left unchanged" in capsys.readouterr().out
    assert not (tmp_path / "archives").exists()


def test_check__trainaug_that_is_not_there_is_a_note(tmp_path):
    make_voc2012(tmp_path)
    tally = Tally()
    assert list(check(tmp_path, tally, any_size=True)) == []
    assert any("no trainaug list" in note for note in tally.notes)
