import itertools
import json
import random
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from mocodet.detection.data import fraction, register_datasets
from mocodet.detection.data.fraction import choose, load_part, training_records
from tests.detection.tiny import CLASSES, SEGMENTS, empty_config, make_coco, make_semseg, make_voc

# Each of 200 images has a common class, some have a second one, and only one image has class 9.
NAMES = [f"data/{number:03d}" for number in range(200)]
CLASSES_OF = {name: {number % 3, *([4 + number % 5] if number % 7 == 0 else [])} for number, name in enumerate(NAMES)}
CLASSES_OF["data/123"].add(9)


def part(names: list[str], wanted: float, seed: int = 0, classes: dict[str, set[int]] = CLASSES_OF) -> set[str]:
    chosen = choose(names, wanted, seed, lambda index: classes[names[index]])
    assert chosen == sorted(set(chosen))
    return {names[index] for index in chosen}


@pytest.mark.parametrize("seed", range(5))
def test_choose__parts_are_nested_and_have_every_class(seed):
    fractions = (0.001, 0.01, 0.1, 0.25, 0.5, 0.999, 1.0)
    parts = [part(NAMES, wanted, seed) for wanted in fractions]
    everything = set().union(*CLASSES_OF.values())
    for smaller, larger in itertools.pairwise(parts):
        assert smaller <= larger
    for wanted, found in zip(fractions, parts, strict=True):
        assert set().union(*(CLASSES_OF[name] for name in found)) == everything
        # Nine classes; in the smallest part each image has a class that no earlier one has.
        assert len(found) == round(wanted * 200) or (wanted < 0.05 and 5 <= len(found) <= 9)
    assert parts[-1] == set(NAMES)


def test_choose__knows_no_order_of_files_and_no_generator():
    shuffled = random.Random(1).sample(NAMES, len(NAMES))
    random.seed(3)
    assert part(shuffled, 0.1) == part(NAMES, 0.1)


def test_choose__another_seed_is_another_draw():
    """With one class, all images are drawn equally often: binomial counts, each within five deviations."""
    seeds, one_class = 400, {name: {0} for name in NAMES}
    drawn = [part(NAMES, 0.5, seed, one_class) for seed in range(seeds)]
    assert len(set(map(frozenset, drawn))) == seeds
    counts = [sum(name in found for found in drawn) for name in NAMES]
    assert all(abs(count - seeds / 2) < 5 * (seeds / 4) ** 0.5 for count in counts)


def test_choose__a_few_images():
    assert part(["a"], 0.01, classes={"a": set()}) == {"a"}
    assert len(part(["a", "b", "c"], 0.5, classes={"a": {0}, "b": {0}, "c": {0}})) == 2


def config(entries: list[dict], **keys: object) -> CfgNode:
    cfg = empty_config(MOCO__DATASETS=entries, DATASETS__TRAIN=tuple(entry["NAME"] for entry in entries), **keys)
    register_datasets(cfg)
    return cfg


def test_training_records__lists_the_images_of_each_data_set(tmp_path, caplog):
    entries = [make_voc(tmp_path / "a", 8), make_voc(tmp_path / "b", 4, "more")]
    cfg = config(entries, MOCO__TRAIN_FRACTION=0.5, OUTPUT_DIR=str(tmp_path))
    with caplog.at_level("INFO"):
        records = training_records(cfg, announce=True)
    assert "0.5, seed 0: training on 6 of 12 images with 6 of 12 objects" in caplog.text
    listed = json.loads((tmp_path / "labelled_images.json").read_text())
    assert (listed["fraction"], listed["seed"], listed["of"]) == (0.5, 0, 12)
    assert list(listed["images"]) == [entry["NAME"] for entry in entries]
    assert [record["image_id"] for record in records] == [name for names in listed["images"].values() for name in names]
    assert {record["annotations"][0]["category_id"] for record in records} == set(range(len(CLASSES)))
    cfg.MOCO.TRAIN_FRACTION = 1.0
    assert len(training_records(cfg)) == 12


def test_load_part__crowds_show_no_class_and_images_without_objects_count_where_they_are_trained_on(tmp_path):
    entry = make_coco(tmp_path, 8)
    path = Path(entry["JSON"])
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        if annotation["image_id"] % 2:  # every dog
            annotation["iscrowd"] = int(annotation["image_id"] != 5)  # but one
    content["annotations"] = [found for found in content["annotations"] if found["image_id"]]  # the first has nothing
    path.write_text(json.dumps(content))
    (only,) = load_part(config([entry], MOCO__TRAIN_FRACTION=0.2)).images.values()
    assert len(only) == 2  # not one, of the four with usable objects: each class has one
    assert "5" in only
    assert load_part(config([entry], MOCO__TRAIN_FRACTION=0.5)).total == 4
    assert load_part(config([entry], MOCO__TRAIN_FRACTION=0.5, DATALOADER__FILTER_EMPTY_ANNOTATIONS=False)).total == 8


def test_load_part__reads_label_images_until_every_class_was_seen(tmp_path, monkeypatch):
    keys = {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": len(SEGMENTS)}
    cfg = config([make_semseg(tmp_path, 12)], MOCO__TRAIN_FRACTION=0.25, **keys)
    read, shown = fraction.read_labels, []

    def spy(path: str, num_classes: int, ignore: int, values: tuple) -> object:
        labels = read(path, num_classes, ignore, values)
        shown.append({*labels.flat} - {ignore})
        return labels

    monkeypatch.setattr(fraction, "read_labels", spy)
    found = load_part(cfg).records
    assert 3 <= len(found) <= 4
    assert set().union(*shown) == set(range(len(SEGMENTS)))
    assert set().union(*shown[:-1]) < set(range(len(SEGMENTS))), "the last one was needed"
    labels = [read(record["sem_seg_file_name"], len(SEGMENTS), 255) for record in found]
    assert {*range(len(SEGMENTS))} <= set().union(*({*some.flat} for some in labels))
