from pathlib import Path

import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mocodet.common.checks import coco, coco_json
from mocodet.common.checks.findings import Tally
from mocodet.common.formats.findings import Finding
from tests.commands import prepare_data
from tests.common.checks.good import (
    NAMES,
    coco_content,
    jpeg,
    make_coco,
    write_json,
)

JSON = "instances.json"


def findings_of(folder: Path) -> list[Finding]:
    return list(coco_json.check_json(folder / JSON, folder / "images", Tally()))


def faults_of(folder: Path) -> list[Finding]:
    return [finding for finding in findings_of(folder) if finding.severity == "error"]


def edited(edit):
    def spoil(folder: Path) -> None:
        content = coco_content()
        edit(content)
        write_json(folder / JSON, content)

    return spoil


def image(**values: object):
    return edited(lambda content: content["images"][2].update(values))


def annotation(number: int = 0, **values: object):
    return edited(lambda content: content["annotations"][number].update(values))


FAULTS = {  # what is done: (how, the file that must be named, words that must say what)
    "no JSON": (lambda folder: (folder / JSON).write_text("{"), JSON, "is not JSON"),
    "a list": (lambda folder: write_json(folder / JSON, []), JSON, "lacks the lists images, annotations, categories"),
    "no file": (lambda folder: (folder / JSON).unlink(), JSON, "is missing"),
    "no annotations": (edited(lambda c: c.pop("annotations")), JSON, "lacks the list annotations"),
    "no object": (edited(lambda c: c.update(annotations=[])), JSON, "has no objects, or only crowds"),
    "no images named": (edited(lambda c: c.update(images=[], annotations=[])), JSON, "lists no images"),
    "image gone": (lambda f: (f / "images/000003.jpg").unlink(), "images/000003.jpg", "image 3 of"),
    "image in another folder": (image(file_name="mine/000003.JPG"), "images/mine", "3.jpg: correct file_name in the J"),
    "image with a backslash": (image(file_name="mine\\000003.jpg"), "images/mine\\000003.jpg", "; there is "),
    "images gone": (lambda f: (f / "images").rename(f / "elsewhere"), "images", "lists images in it"),
    "image truncated": (
        lambda f: (f / "images/000002.jpg").write_bytes((f / "images/000002.jpg").read_bytes()[:-200]),
        "images/000002.jpg",
        "annot be ",
    ),
    "another image": (
        lambda f: jpeg(f / "images/000002.jpg", (30, 40)),
        "images/000002.jpg",
        "is 30 x 40, but should be 40 x 30 according to instances.json",
    ),
    "image id twice": (image(id=1), JSON, "the image id 1 occurs 2 times"),
    "bbox inside out": (annotation(bbox=[9, 9, -3, 4]), JSON, "annotation 11 (image 1) has the bbox [9, 9, -3, 4], wh"),
}


def test_check_json__good(tmp_path):
    tally = Tally()
    folder = make_coco(tmp_path)
    (note,) = coco_json.check_json(folder / JSON, folder / "images", tally)
    assert str(note).endswith(
        "annotation 13 (image 1) has no mask, although others have one; usable only with MODEL.MASK_ON False"
    )
    assert tally.counts == {"images": 3, "annotations": 3, "annotations with keypoints": 1}
    assert tally.notes == []
    # pycocotools takes the good file too: it is not the check alone that calls it good.
    api = COCO(folder / JSON)
    assert mask_utils.area(api.annToRLE(api.anns[12])) == 50


@pytest.mark.parametrize("fault", FAULTS)
def test_check_json__one_fault(fault, tmp_path):
    spoil, file, words = FAULTS[fault]
    folder = make_coco(tmp_path)
    spoil(folder)
    (found,) = faults_of(folder)
    assert found.file == folder / file
    assert words in str(found)
    assert "\n" not in str(found)


def test_check_json__several_faults_are_all_reported(tmp_path):
    folder = make_coco(tmp_path)
    several = ("another image", "image gone", "bbox inside out")
    content = coco_content()
    content["annotations"][0].update(bbox=[9, 9, -3, 4], iscrowd=2)
    content["annotations"][1].update(category_id=2)
    content["annotations"][2].update(image_id=7)
    write_json(folder / JSON, content)
    for fault in several[:2]:
        FAULTS[fault][0](folder)
    found = faults_of(folder)
    for fault in several:
        _, file, words = FAULTS[fault]
        assert any(one.file == folder / file and words in str(one) for one in found), fault
    for record in ("annotation 11 (image 1) has iscrowd 2", "annotation 12 (image 2)", "annotation 13 (image 7)"):
        assert any(record in str(one) for one in found)
    assert len(found) == len(several) + 3


def test_check_json__other_files_in_the_folder_are_a_note(tmp_path):
    folder = make_coco(tmp_path)
    jpeg(folder / "images/4.jpg")
    tally = Tally()
    list(coco_json.check_json(folder / JSON, folder / "images", tally))
    assert tally.notes == [f"{folder / 'images'}: 1 files are not listed in {JSON}"]


def make_coco2017(root: Path) -> None:
    for split in ("train2017", "val2017"):
        for name in NAMES:
            jpeg(root / "coco" / split / f"{name}.jpg")
        for kind in ("instances", "person_keypoints"):
            write_json(root / "coco/annotations" / f"{kind}_{split}.json", coco_content())


def errors(root: Path, tally: Tally | None = None, **flags: bool) -> list[Finding]:
    return [finding for finding in coco.check(root, tally or Tally(), **flags) if finding.severity == "error"]


def test_check__counts_and_each_image_once(tmp_path):
    make_coco2017(tmp_path)
    tally = Tally()
    assert errors(tmp_path, tally, any_size=True) == []
    assert tally.counts["images"] == 6
    found = [str(fault) for fault in errors(tmp_path)]
    assert len(found) == 8  # images and categories, of four files
    assert "3 images, but the published data set has 118,287" in found[0]
    (tmp_path / "coco/val2017/000001.jpg").unlink()
    (missing,) = errors(tmp_path, any_size=True)
    assert missing.file == tmp_path / "coco/val2017/000001.jpg"
    (tmp_path / "coco/annotations/instances_val2017.json").unlink()
    assert len(errors(tmp_path, any_size=True)) == 2


def test_check_json__names_that_no_terminal_shows(tmp_path):
    folder = make_coco(tmp_path)
    image(file_name="a\n\ud800.jpg")(folder)
    (found,) = faults_of(folder)
    assert r"a\n\ud800.jpg: is missing" in str(found)
    str(found).encode()


def test_cli__own_file(tmp_path, capsys):
    folder = make_coco(tmp_path)
    command = ["coco", "--check", "--json", str(folder / JSON), "--images", str(folder / "images"), "--workers", "0"]
    with pytest.raises(SystemExit) as ended:
        prepare_data(command)
    assert ended.value.code == 0
    assert "coco: no errors; checked 3 images, 3 annotations" in capsys.readouterr().out
