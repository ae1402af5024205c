"""With any value at any place of an annotation file, a check names faults and continues."""

import copy
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from mocodet.common.checks import cityscapes, coco_json, lvis, voc
from mocodet.common.checks.findings import Tally
from mocodet.common.formats.voc import read_annotation
from mocodet.detection.data.voc import load_voc
from tests.common.checks.good import HEIGHT, WIDTH, coco_content, make_coco, make_voc, write_json
from tests.common.checks.test_lvis import lvis_content

NUMBERS = (5, -1, 1.5, 10**400, math.nan, math.inf, 1e308)
VALUES = (None, *NUMBERS, "", "x", "\ud800\0\n", [], [[]], [10**308] * 4, {}, True)


def places(content: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path to every value inside ``content``."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def spoilt(content: dict) -> Iterator[tuple[str, dict]]:
    """Yield ``content`` with each of its values in turn replaced by each of `VALUES`, or removed."""
    for *way, last in places(content):
        for value in (*VALUES, "removed"):
            changed = copy.deepcopy(content)
            parent = changed
            for key in way:
                parent = parent[key]
            if value == "removed":
                del parent[last]
            else:
                parent[last] = value
            yield f"{[*way, last]}: {str(value)[:9]!r}", changed


def few(values: list) -> list:
    """Keep the first and last values of a long list, such as keypoints, whose inner values are alike."""
    return values if len(values) <= 6 else [*values[:3], *values[-3:]]


def small_coco() -> dict:
    content = coco_content()
    content["categories"][0]["keypoints"] = ["k0", "k1"]
    content["annotations"][2]["keypoints"] = few(content["annotations"][2]["keypoints"])
    return content


@pytest.mark.parametrize("name", ["coco", "lvis"])
def test_check__any_json(name, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_json, "check_images", lambda jobs, tally, workers: iter(()))  # the images stay as they are
    folder = make_coco(tmp_path)
    (folder / "coco/train2017").mkdir(parents=True)
    (folder / "coco/train2017/000000000005.jpg").touch()
    path = folder / ("instances.json" if name == "coco" else "lvis/lvis_v0.5_val.json")

    def faults() -> list[str]:
        if name == "coco":
            found = coco_json.check_json(path, folder / "images", Tally())
        else:
            found = (fault for fault in lvis.check(folder, Tally(), any_size=True) if fault.file != train)
        return [str(fault) for fault in found]

    train = folder / "lvis/lvis_v0.5_train.json"
    good = small_coco() if name == "coco" else lvis_content()
    write_json(path, good)
    known = faults()
    number = found = 0
    for what, content in spoilt(good):
        write_json(path, content)
        try:
            lines = faults()
        except Exception as error:
            raise AssertionError(what) from error
        number += 1
        found += lines != known
        assert all("\n" not in line and line.encode() for line in lines), what
    assert found > number / 2


def test_check__any_xml(tmp_path):
    folder = make_voc(tmp_path)
    path = folder / "Annotations/000001.xml"
    good = ElementTree.fromstring(path.read_text())
    for number in range(len(list(good.iter()))):
        for text in (None, "", "x", "nan", "1e999", "9" * 5000, "removed"):
            tree = copy.deepcopy(good)
            node = list(tree.iter())[number]
            if text != "removed":
                tail = node.tail
                node.clear()
                node.text, node.tail = text, tail
            elif number:
                next(parent for parent in tree.iter() if node in parent).remove(node)
            path.write_bytes(ElementTree.tostring(tree))
            found = list(voc.check_layout(folder, ("cat",), Tally()))
            assert not any("\n" in str(finding) for finding in found), (node.tag, text)
            refused = any(finding.severity == "error" for finding in found)
            with pytest.raises(ValueError, match=r"^data set mine: ") if refused else nullcontext():
                load_voc("mine", str(folder), "trainval", ("cat",))
            read = read_annotation(path)
            reported = [one for one in read.findings if one.severity == "error" and one.record]
            assert len(read.objects) + len(reported) == read.count


def test_check__any_cityscapes_polygons(tmp_path):
    good = {
        "imgWidth": WIDTH,
        "imgHeight": HEIGHT,
        "objects": [{"label": "road", "polygon": [[0, 0], [1, 0], [1, 1]]}, {"label": "cargroup", "polygon": []}],
    }
    path = Path(tmp_path / "frame_polygons.json")
    for what, content in spoilt(good):
        path.write_text(json.dumps(content))
        try:
            list(cityscapes._polygon_faults(path, (WIDTH, HEIGHT)))
        except Exception as error:
            raise AssertionError(what) from error
