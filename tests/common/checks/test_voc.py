import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mocodet.common.checks import voc
from mocodet.common.checks.findings import Tally
from mocodet.common.formats.findings import Finding
from mocodet.detection.data.voc import load_voc
from tests.commands import prepare_data
from tests.common.checks.good import HEIGHT, NAMES, WIDTH, jpeg, make_voc, png, voc_xml, write_list

CLASSES = ("cat", "dog")
FIRST = "Annotations/000001.xml"


def faults_of(folder: Path) -> list[Finding]:
    return [one for one in voc.check_layout(folder, CLASSES, Tally()) if one.severity == "error"]


def rewrite(file: str, old: str, new: str):
    def spoil(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return spoil


def remove(file: str):
    return lambda folder: (folder / file).unlink()


def with_box(*box: object):
    return lambda folder: (folder / FIRST).write_text(voc_xml("000001", box))


def truncate(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-200])


def mask_of(value: int, size: tuple[int, int] = (WIDTH, HEIGHT)):
    return lambda folder: png(
        folder / "SegmentationClass/000001.png", np.full((size[1], size[0]), value, np.uint8), palette=True
    )


def move_annotations(folder: Path) -> None:
    (folder / "Annotations").rename(folder / "elsewhere")


def share_an_image(folder: Path) -> None:
    (folder / "JPEGImages/000002.jpg").unlink()
    rewrite("Annotations/000002.xml", "000002.jpg", "000001.jpg")(folder)


def without_annotations(folder: Path) -> None:
    shutil.rmtree(folder / "ImageSets")
    for file in (folder / "Annotations").iterdir():
        file.unlink()


def in_fractions(folder: Path) -> None:
    for name in NAMES:
        (folder / f"Annotations/{name}.xml").write_text(voc_xml(name, (0.25, 0, 1, 0.5)))


MAIN = "ImageSets/Main/trainval.txt"
SEGMENTATION = "ImageSets/Segmentation/train.txt"
MASK = "SegmentationClass/000001.png"
FAULTS = {  # what is done: (how, the file that must be named, words that must say what)
    "image gone": (remove("JPEGImages/000002.jpg"), "JPEGImages/000002", "trainval.txt lists it"),
    "image with a mask gone": (remove("JPEGImages/000001.jpg"), "JPEGImages/000001", "trainval.txt lists it"),
    "annotation gone": (remove("Annotations/000002.xml"), "Annotations/000002.xml", "trainval.txt lists its image"),
    "image truncated": (truncate("JPEGImages/000003.jpg"), "JPEGImages/000003.jpg", "truncated"),
    "no image": (
        lambda f: (f / "JPEGImages/000002.jpg").write_text("x"),
        "JPEGImages/000002.jpg",
        "cannot be read as an image",
    ),
    "another image": (
        lambda folder: jpeg(folder / "JPEGImages/000002.jpg", (30, 40)),
        "JPEGImages/000002.jpg",
        "is 30 x 40, but should be 40 x 30 according to its annotation",
    ),
    "damaged XML": (truncate(FIRST), FIRST, "is not XML"),
    "unknown encoding": (
        lambda f: (f / FIRST).write_text(f'<?xml version="1.0" encoding="foo"?>{voc_xml("000001")}'),
        FIRST,
        "declares the encoding 'foo'",
    ),
    "list of another encoding": (
        lambda f: (f / "ImageSets/Main/latin.txt").write_bytes("é".encode("latin-1")),
        "ImageSets/Main/latin.txt",
        "is not UTF-8 text",
    ),
    "box outside": (with_box(1, HEIGHT + 3, 5, HEIGHT + 5), FIRST, "is outside the image of 40 x 30"),
    "no class of CLASSES": (
        lambda f: [rewrite(f"Annotations/{name}.xml", ">cat<", ">Cat<")(f) for name in NAMES[:2]],
        MAIN,
        "has no objects of class 'cat', but objects of class 'Cat'",
    ),
    "image of two annotations": (share_an_image, "Annotations", "share the image 000001.jpg"),
    "no annotations": (without_annotations, "Annotations", "has no XML files"),
    "boxes in fractions": (in_fractions, "Annotations", "has boxes that seem to be fractions of the image's size"),
    "annotation without an image": (
        lambda folder: (folder / "Annotations/9.xml").write_text(voc_xml("9")),
        "Annotations/9.xml",
        "has no image",
    ),
    "difficult": (rewrite(FIRST, "<difficult>1", "<difficult>maybe"), FIRST, "has <difficult> 'maybe'"),
    "no box": (rewrite(FIRST, "<xmin>1</xmin>", ""), FIRST, "lacks a <bndbox>"),
    "box of no numbers": (with_box("a", 1, 2, 3), FIRST, "lacks a <bndbox>"),
    "box without an end": (with_box(1, 1, "inf", 3), FIRST, "is not finite"),
    "box inside out": (with_box(20, 1, 10, 30), FIRST, "20, 1, 10, 30, which is inside out"),
    "empty box": (with_box(20, 1, 19, 30), FIRST, "is empty"),
    "two words": (
        rewrite(MAIN, "000002", "no such image"),
        MAIN,
        "must contain one image name per line; found 'no such image'",
    ),
    "empty list": (lambda folder: (folder / MAIN).write_text("\n"), MAIN, "lists no images"),
    "folder gone": (move_annotations, "Annotations", "is missing"),
    "mask gone": (remove(MASK), MASK, "train.txt lists it"),
    "mask truncated": (truncate(MASK), MASK, "cannot be read as an image"),
    "unknown label": (mask_of(21), MASK, "has the label 21, which is not a class; valid labels are 0-20, 255"),
    "mask of another size": (
        mask_of(1, (HEIGHT, WIDTH)),
        MASK,
        "is 30 x 40, but should be 40 x 30 according to its image",
    ),
    "coloured mask": (
        lambda folder: png(folder / MASK, np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        MASK,
        "contains colours instead of class indices",
    ),
    "mask of no image": (
        lambda folder: write_list(folder / SEGMENTATION, ("000001", "7")),
        "JPEGImages/7",
        "train.txt lists it",
    ),
}


def test_check_layout__good(tmp_path):
    tally = Tally()
    assert list(voc.check_layout(make_voc(tmp_path / "VOC2007"), CLASSES, tally)) == []
    assert tally.counts == {"images": 3, "annotation files": 3, "objects": 3, "masks": 2}
    assert tally.notes == []


@pytest.mark.parametrize("fault", FAULTS)
def test_check_layout__one_fault(fault, tmp_path):
    spoil, file, words = FAULTS[fault]
    folder = make_voc(tmp_path / "VOC2007")
    spoil(folder)
    (found,) = faults_of(folder)
    assert found.file == folder / file
    assert words in found.what
    assert "\n" not in str(found)


def test_check_layout__several_faults_are_all_reported(tmp_path):
    folder = make_voc(tmp_path / "VOC2007")
    several = ("image truncated", "unknown label", "difficult", "no box")
    for fault in several:
        FAULTS[fault][0](folder)
    found = faults_of(folder)
    for fault in several:
        _, file, words = FAULTS[fault]
        assert any(found_one.file == folder / file and words in found_one.what for found_one in found)
    assert len(found) == len(several)


REPAIRS = {  # what a run takes as well, and what is said of it
    "name twice": (rewrite(MAIN, "000002", "000001"), "repaired", "000001 is listed more than once; used only once"),
    "endless size": (rewrite(FIRST, f"<width>{WIDTH}<", f"<width>{'9' * 5000}<"), "repaired", "read from the image"),
    "no size": (rewrite(FIRST, f"<width>{WIDTH}</width>", ""), "repaired", "has the <size> nothing x 30; the size is"),
    "box outside": (with_box(1, -1, WIDTH + 2, 30), "repaired", "extends beyond the image of 40 x 30; training clips"),
    "label": (rewrite(MAIN, "000002", "000002 -1"), "note", "000002 has a label after its name"),
    "name of another": (rewrite(FIRST, "000001.jpg", "7.jpg"), "note", "<filename>; treated as the XML file of 000001"),
    "other class": (rewrite(FIRST, ">cat<", ">cow<"), "note", "1 objects of classes that are not in CLASSES: cow (1)"),
    "no pose": (rewrite(FIRST, "<pose>Left</pose>", ""), "", ""),
    "no truncated": (rewrite(FIRST, "<truncated>0</truncated>", ""), "", ""),
    "a pixel outside": (with_box(0, 0, WIDTH + 1, 20.5), "", ""),
    "some boxes in the first pixel": (with_box(0, 0, 1, 1), "", ""),
    "backup in a subfolder": (
        lambda f: shutil.copytree(f / "Annotations", f / "Annotations/backup"),
        *("", ""),
    ),
    "no suffix": (rewrite(FIRST, "000001.jpg", "000001"), "", ""),
}


@pytest.mark.parametrize("repair", REPAIRS)
def test_check_layout__what_a_run_takes_is_no_fault(repair, tmp_path):
    spoil, severity, words = REPAIRS[repair]
    folder = make_voc(tmp_path / "mine")
    spoil(folder)
    found = list(voc.check_layout(folder, CLASSES, Tally()))
    assert [one.severity for one in found] == [severity] * bool(severity)
    assert all(words in str(one) for one in found)
    load_voc("mine", str(folder), "trainval", CLASSES)


def test_check_layout__image_that_exif_turns_is_measured_as_detectron2_reads_it(tmp_path):
    from detectron2.data.detection_utils import read_image
    from PIL import Image

    folder = make_voc(tmp_path / "VOC2007")
    path = folder / "JPEGImages/000002.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(path, exif=turned)
    assert read_image(str(path), "RGB").shape == (HEIGHT, WIDTH, 3)
    assert faults_of(folder) == []


def test_check_layout__a_split_named_like_a_class_is_checked(tmp_path):
    folder = make_voc(tmp_path / "mine")
    (folder / "ImageSets/Main" / f"{CLASSES[0]}_small.txt").write_text("absent\n")
    (folder / "ImageSets/Main" / f"{CLASSES[0]}_other.txt").write_text("absent -1\n")  # of the class
    found = [fault.file.name for fault in voc.check_layout(folder, CLASSES, Tally())]
    assert sorted(found) == ["absent", "absent.xml"]


def test_check_layout__images_in_no_list_are_a_note(tmp_path):
    folder = make_voc(tmp_path / "VOC2007")
    write_list(folder / MAIN, NAMES[:1])
    tally = Tally()
    assert list(voc.check_layout(folder, CLASSES, tally)) == []
    assert tally.notes == [f"{folder}: 1 images are not in any list of ImageSets/Main"]


def test_check_layout__subfolders(tmp_path):
    folder = make_voc(tmp_path / "mine")
    shutil.rmtree(folder / "ImageSets")
    for part in ("Annotations", "JPEGImages"):
        (folder / part).rename(folder / "s1")
        (folder / part).mkdir()
        (folder / "s1").rename(folder / part / "s1")
    tally = Tally()
    assert list(voc.check_layout(folder, CLASSES, tally)) == []
    assert tally.counts == {"images": 3, "annotation files": 3, "objects": 3}


def test_check_layout__an_image_that_filename_specifies_has_an_xml_file(tmp_path):
    folder = make_voc(tmp_path / "mine")
    shutil.rmtree(folder / "ImageSets")
    (folder / "Annotations/000002.xml").rename(folder / "Annotations/renamed.xml")
    tally = Tally()
    assert list(voc.check_layout(folder, CLASSES, tally)) == []
    assert not any("have no XML file" in note for note in tally.notes)
    (folder / "Annotations/renamed.xml").unlink()
    list(voc.check_layout(folder, CLASSES, tally))
    assert tally.notes[-1] == f"{folder}: 1 images have no XML file"


def test_check__published_counts(tmp_path):
    make_voc(tmp_path / "VOC2007")
    found = [str(fault) for fault in voc.check(tmp_path, Tally())]
    assert [line.partition(":")[0] for line in found] == [
        str(tmp_path / "VOC2007/ImageSets/Main" / name) for name in ("trainval.txt", "test.txt")
    ]
    assert "2 images, but the published data set has 5,011" in found[0]
    assert list(voc.check(tmp_path, Tally(), any_size=True)) == []
    (tmp_path / "VOC2007/ImageSets/Main/test.txt").unlink()
    assert "is missing, but part of the published data set" in str(list(voc.check(tmp_path, Tally()))[1])


def test_check__nothing_there(tmp_path):
    (found,) = voc.check(tmp_path, Tally())
    assert "contains neither VOC2007 nor VOC2012" in found.what


def test_cli__status_and_summary(tmp_path, capsys):
    folder = make_voc(tmp_path / "mine")
    command = ["voc", "--check", "--root", str(folder), "--classes", *CLASSES, "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        prepare_data(command)
    assert ended.value.code == 0
    summary = "voc: no errors; checked 3 annotation files, 3 objects, 3 images, 2 masks\n"
    assert capsys.readouterr().out == summary
    FAULTS["image truncated"][0](folder)
    FAULTS["difficult"][0](folder)
    with pytest.raises(SystemExit) as ended:
        prepare_data(command)
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(folder / FIRST),
        str(folder / "JPEGImages/000003.jpg"),
        "voc",
    ]
    assert lines[-1].startswith("voc: 2 errors in 2 files; checked")


def test_cli__as_a_program_with_processes_that_decode(tmp_path):
    folder = make_voc(tmp_path / "mine")
    FAULTS["image truncated"][0](folder)
    command = ["prepare-data", "voc", "--check", "--root", folder, "--classes", *CLASSES, "--workers", "2"]
    program = [sys.executable, "-m", "mocodet"]
    done = subprocess.run([*program, *command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    assert f"{folder / 'JPEGImages/000003.jpg'}: cannot be read as an image" in done.stdout
    assert done.stderr == ""
