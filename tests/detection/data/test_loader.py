import itertools
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from mocodet.common.seeds import generators_of
from mocodet.detection.data import register_datasets
from mocodet.detection.data.fraction import training_records
from mocodet.detection.data.loader import build_training_loader
from mocodet.detection.data.mapper import build_mapper
from mocodet.detection.seeds import Purpose, seed_for
from tests.detection.tiny import empty_config, make_semseg, make_voc

CROPPED = {"INPUT__CROP__ENABLED": True, "INPUT__CROP__TYPE": "relative", "INPUT__CROP__SIZE": [0.7, 0.7]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> CfgNode:
    entry = make_voc(tmp_path_factory.mktemp("voc"), 5)
    keys = {"MOCO__DATASETS": [entry], "DATASETS__TRAIN": (entry["NAME"],), "INPUT__MIN_SIZE_TRAIN": (32, 48)}
    cfg = empty_config(**keys, **CROPPED, SOLVER__IMS_PER_BATCH=2, DATALOADER__NUM_WORKERS=0, SEED=3)
    register_datasets(cfg)
    return cfg


def batches(cfg: CfgNode, count: int, start: int = 0) -> list[list[dict]]:
    loader = build_training_loader(cfg, training_records(cfg), build_mapper(cfg, training=True))
    loader.batch_sampler.start = start
    return list(itertools.islice(loader, count))


def pixels(loaded: list[list[dict]]) -> list[list[list]]:
    return [[one["image"].tolist() for one in batch] for batch in loaded]


@pytest.mark.parametrize("workers", [0, 2])
def test_build_training_loader__a_batch_is_a_function_of_seed_and_number(data, workers):
    cfg = data.clone()
    cfg.DATALOADER.NUM_WORKERS = workers
    seed_all_rng(1)
    whole = batches(data, 6)
    seed_all_rng(2)
    assert pixels(batches(cfg, 4, start=2)) == pixels(whole[2:])
    # The slow way: one image at a time, numbered by its place in the stream.
    records = {record["file_name"]: record for record in training_records(cfg)}
    mapper = build_mapper(cfg, training=True)
    for number, one in enumerate(itertools.chain(*whole)):
        with generators_of(seed_for(3, Purpose.IMAGE, number)):
            assert torch.equal(mapper(records[one["file_name"]])["image"], one["image"])
    assert len({str(one) for batch in pixels(whole) for one in batch}) > len(records), "nothing was augmented"
    cfg.SEED = 4
    assert pixels(batches(cfg, 1)) != pixels(whole[:1])


def test_build_training_loader__leaves_the_generators_alone(data):
    seed_all_rng(1)
    expected = torch.rand(2)
    seed_all_rng(1)
    batches(data, 2)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_build_training_loader__every_sampler_is_seeded_by_the_run(data, sampler):
    orders = []
    for seed in (3, 3, 4):
        cfg = data.clone()
        cfg.merge_from_list(["DATALOADER.SAMPLER_TRAIN", sampler, "SEED", seed])
        seed_all_rng(len(orders))
        loader = build_training_loader(cfg, training_records(cfg), build_mapper(cfg, training=True))
        orders.append(list(itertools.islice(loader.batch_sampler, 9)))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_build_training_loader__groups_images_whose_records_have_no_size(tmp_path):
    entry = make_semseg(tmp_path, 6)
    for number, path in enumerate(sorted((tmp_path / "images").iterdir())):
        for file in (path, tmp_path / "labels" / path.name):
            Image.open(file).crop((0, 0, 40, 60) if number % 2 else (0, 0, 60, 40)).save(file)
    keys = {"MOCO__DATASETS": [entry], "DATASETS__TRAIN": (entry["NAME"],), "INPUT__MIN_SIZE_TRAIN": (40,)}
    keys |= {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", "SOLVER__IMS_PER_BATCH": 2, "DATALOADER__NUM_WORKERS": 0}
    cfg = empty_config(**keys, SEED=0)
    register_datasets(cfg)
    assert "width" not in training_records(cfg)[0]
    shapes = [{Image.open(one["file_name"]).size for one in batch} for batch in batches(cfg, 6)]
    assert {len(shape) for shape in shapes} == {1}
    assert {*itertools.chain(*shapes)} == {(40, 60), (60, 40)}


def test_build_training_loader__tells_its_images_from_others(data, tmp_path):
    records, mapper = training_records(data), build_mapper(data, training=True)
    identities = {
        build_training_loader(data, images, mapper).dataset.identity for images in (records, records[:4], records[::-1])
    }
    moved = [{**record, "file_name": str(tmp_path / Path(record["file_name"]).name)} for record in records]
    assert len(identities) == 3
    assert build_training_loader(data, moved, mapper).dataset.identity in identities
