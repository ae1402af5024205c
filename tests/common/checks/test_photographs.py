"""The check of photographs before pre-training, through its command."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.common.checks.images import in_processes
from mocodet.common.prepare.run import main
from tests.commands import parsed
from tests.pretrain.damaged import SORTS, png, write_damaged


def look(*arguments: object) -> object:
    """Run the command in this process; return its exit status, or its error."""
    with pytest.raises(SystemExit) as ended:
        main(parsed("prepare-data", ["images", *map(str, arguments), "--workers", "0"]))
    return ended.value.code


@pytest.fixture
def pool(tmp_path) -> Path:
    folder = tmp_path / "pool"
    (folder / "2019").mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def test_images__lists_what_is_damaged_tiny_flat_or_there_twice(pool, tmp_path, capsys):
    write_damaged(pool)
    with Image.open(pool / "1.png") as image:
        image.save(pool / "2019" / "other bytes.bmp")
        image.transpose(Image.Transpose.ROTATE_90).save(pool / "turned.png")
    (pool / "small\n.png").write_bytes(png(7, side=31))
    grey = np.linspace(0, 4095, 40 * 40).reshape(40, 40)  # 12 bits
    Image.fromarray(grey.astype(np.uint16)).save(pool / "unscaled.png")
    Image.fromarray((16 * grey).astype(np.uint16)).save(pool / "scaled.png")
    (pool / "movie.mov").touch()
    (pool / "2019" / "photograph.HEIC").touch()
    shutil.copy(pool / "3.png", pool / "2019" / "copy.png")
    shutil.copy(pool / "3.png", pool / os.fsdecode(b"\xff.png"))
    assert look(pool) == 1, "found, and nothing is done about it"
    assert look(pool, "--output", tmp_path / "list") == 0
    entries = [json.loads(line) for line in (tmp_path / "list").read_text().splitlines()]
    listed = {entry["file"]: (entry["what"], entry["reason"]) for entry in entries}
    first = "has the same pixels as " + str(pool / "2019" / "copy.png")
    expected = {
        "2019/other bytes.bmp": ("duplicate", f"has the same pixels as {pool / '1.png'}"),
        "3.png": ("duplicate", first),
        "\udcff.png": ("duplicate", first),
        "small\n.png": ("tiny", "has a side of 31 pixels; the minimum is 32"),
        "unscaled.png": (
            "flat",
            "has values that differ by at most 15 of 255; if the file has 16 bits per pixel, scale its values to the"
            " full range",
        ),
    }
    assert {file: listed[file] for file in expected} == expected
    assert {file for file, (what, _) in listed.items() if what == "damaged"} == set(SORTS)
    assert len(entries) == len(expected) + len(SORTS)
    note, last = capsys.readouterr().out.splitlines()[-2:]
    assert last == f"{pool}: 20 images: 8 damaged, 1 tiny, 1 flat, 3 duplicate; set DATA.EXCLUDE {tmp_path / 'list'}"
    assert note == (
        f"note: 2 files in {pool} are not images (by extension); ignored; if some of them are"
        " photographs, for example in HEIC format, convert these to JPEG"
    )
    assert look(pool, "--min-side", "41") == 1
    assert f"tiny: {pool / '0.png'} has a side of 40 pixels; the minimum is 41" in capsys.readouterr().out


def test_images__nothing_wrong(pool, capsys):
    assert look(pool) == 0
    assert capsys.readouterr().out == f"{pool}: 5 images: no problems found\n"
    for nothing, expected in (
        (pool / "2019", "contains no image"),
        (pool / "none", "is not a folder; expected a folder"),
    ):
        assert expected in str(look(nothing))


def kill_the_reader(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_in_processes__a_killed_process_is_told():
    with pytest.raises(ChildProcessError, match=r"^a process that read files was killed; .* Lower --workers, and run"):
        list(in_processes(kill_the_reader, ["a", "b"], 1, "image"))


def write_voc(root: Path, names: list[str]) -> str:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for name in names:
        (root / "JPEGImages" / f"{name}.png").write_bytes(png(int(name)))
        (root / "Annotations" / f"{name}.xml").write_text("<annotation></annotation>")
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names))
    return f"{{KIND: voc, ROOT: {root}, SPLIT: test}}"


def write_coco(root: Path, names: list[str]) -> str:
    (root / "images").mkdir(parents=True)
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)]
    for name in names:
        (root / "images" / f"{name}.png").write_bytes(png(int(name)))
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (root / "a.json").write_text(json.dumps(content))
    return f"{{'KIND': 'coco', 'JSON': '{root}/a.json', 'IMAGES': '{root}/images'}}"


@pytest.mark.parametrize("kind", ["voc", "coco", "folder"])
def test_images__leaks_are_named_in_pairs(pool, tmp_path, capsys, kind):
    test = tmp_path / "test"
    entry = (write_coco if kind == "coco" else write_voc)(test, ["3", "9"])
    if kind == "folder":
        entry = str(test)
    assert look(pool, "--leaks", entry) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"{pool}: 5 images, compared with 2 images of {entry}: 1 leak"
    (other,) = test.rglob("3.png")
    assert out[0] == f"leak: {pool / '3.png'} has the same pixels as {other}"


def test_images__a_test_image_that_cannot_be_read_is_told(pool, tmp_path, capsys):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.png").write_bytes(b"")
    assert look(pool, "--leaks", tmp_path / "test") == 0
    told = f"note: {tmp_path}/test/a.png cannot be read as an image (unrecognised format), and was not compared"
    assert capsys.readouterr().out.splitlines()[0] == told


def test_images__an_entry_that_is_none(pool):
    for entry, expected in (
        ("{KIND: semseg}", "expected an entry as in MOCO.DATASETS, with KIND voc or coco or yolo"),
        ("{KIND: voc, ROOT: x}", "--leaks of KIND voc has ROOT; expected ROOT, SPLIT, CLASSES (optional)"),
        ("{KIND: voc, ROOT: 3, SPLIT: test}", "--leaks: ROOT is 3; expected text"),
        ("{KIND: [", "is neither a folder nor an entry as in MOCO.DATASETS"),
    ):
        assert expected in str(look(pool, "--leaks", entry))
