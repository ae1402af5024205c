"""Whatever a COCO file holds: check and run agree on it, and no annotation is lost without a word."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mocodet.common.checks import coco_json
from mocodet.common.checks.findings import Tally
from mocodet.common.formats.coco import read_coco
from mocodet.detection.data.coco import load_coco
from mocodet.detection.data.mapper import build_mapper
from mocodet.detection.evaluation.kinds.coco import FasterCOCOEvaluator, check_coco_ground_truth
from tests.common.checks.good import HEIGHT, WIDTH, coco_content, make_coco
from tests.common.checks.test_any_content import VALUES, places
from tests.detection.tiny import empty_config, new_name

NAMES = [f"k{number}" for number in range(17)]
LIKELY = (0, 1, "1", "18", 1.0, [5, 5, 9, 9], [5, 5, 9, 9, 5, 12], {"size": [HEIGHT, WIDTH], "counts": "\\9"}, "dog")


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """A good file in which a few values are exchanged, removed or repeated."""
    content: Any = coco_content()
    content["categories"].append({"id": 20, "name": "cat", "supercategory": "dog"})
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(places(content))))
        parent = content
        for key in way:
            parent = parent[key]
        match draw(st.sampled_from(["exchange", "remove", "repeat"])):
            case "exchange":
                parent[last] = copy.deepcopy(draw(st.sampled_from([*VALUES, *LIKELY])))
            case "remove":
                del parent[last]
            case "repeat" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
        if not list(places(content)):
            break
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco(tmp_path_factory.mktemp("mutated"))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=contents())
def test_check_and_run_agree(content, folder):
    path, images, name = folder / "instances.json", folder / "images", new_name()
    path.write_text(json.dumps(content))
    coco = read_coco(path, images)
    written = content.get("annotations") if isinstance(content, dict) else None
    if coco.images and coco.categories and isinstance(written, list):
        named = {finding.record for finding in coco.findings if finding.severity == "error"}
        reported = {record for record in named if record.startswith("annotation ")}
        assert len(coco.annotations) + len(reported) == len(written)

    faults = [found for found in coco_json.check_json(path, images, Tally()) if found.severity == "error"]
    MetadataCatalog.get(name).set(json_file=str(path), image_root=str(images))
    cfg, records, refusal = empty_config(), [], ""
    try:
        records = load_coco(name, str(path), str(images))
        check_coco_ground_truth(cfg, name)
    except (ValueError, FileNotFoundError) as error:
        refusal = str(error)
    assert bool(refusal) == bool(faults), refusal or faults
    if refusal:
        assert "\n" not in refusal
        return
    assert sum(len(record["annotations"]) for record in records) == len(coco.annotations) == len(written)
    mapper = build_mapper(cfg, training=True)
    for record in records:
        mapper(record)
    rows = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in coco.annotations
    ]
    (folder / "results.json").write_text(json.dumps(rows))
    results, _ = FasterCOCOEvaluator(name, ["bbox"]).evaluate_saved(folder / "results.json")
    assert not math.isnan(results["bbox"]["AP"])
