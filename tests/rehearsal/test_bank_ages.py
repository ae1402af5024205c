import json
import sys

import pytest
import torch
from PIL import Image

from mocodet.pretrain.build import build_data
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.methods.memory_bank import MemoryBank
from tests.commands import pretrain
from tests.rehearsal.bank_ages import GROUPS, ages_of_entries, main, similarities, table

IMAGES, BATCH, EPOCHS = 43, 4, 2  # ten iterations an epoch, and three images left over
SETTINGS = f"""DATA.NUM_WORKERS 0 AUGMENTATION.CROP_SIZE 32 MODEL.ARCH resnet18 MODEL.DIM 8
    MODEL.BN_GROUPS 1 CONTRAST.NUM_NEGATIVES 5 SOLVER.IMS_PER_BATCH {BATCH} SOLVER.MAX_EPOCHS {EPOCHS} SEED 3
    SOLVER.PRECISION float32 LOG_PERIOD 100"""


def test_command__ages_are_the_steps_since_the_last_update(tmp_path, monkeypatch, capsys):
    updates, update = [], MemoryBank.update

    def record(self: MemoryBank, index: torch.Tensor, q: torch.Tensor) -> None:
        updates.append(index.tolist())
        update(self, index, q)

    monkeypatch.setattr(MemoryBank, "update", record)
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    for number in range(IMAGES):
        Image.effect_noise((40, 40), 90).convert("RGB").save(images / f"{number:02}.png")
    (tmp_path / "bank.yaml").write_text("METHOD: memory_bank")
    settings = [*SETTINGS.split(), "DATA.ROOT", str(images), "OUTPUT_DIR", str(output)]
    pretrain(["--config-file", str(tmp_path / "bank.yaml"), *settings])

    cfg = get_cfg()
    cfg.merge_from_file(str(output / "config.yaml"))
    for iteration in (len(updates), 13):
        expected = [0] * IMAGES
        for age, batch in enumerate(reversed(updates[iteration - 10 : iteration]), start=1):
            for index in batch:
                expected[index] = expected[index] or age
        assert ages_of_entries(build_data(cfg).sampler, IMAGES, iteration).tolist() == expected

    values = tmp_path / "values.json"
    line = ["bank_ages", str(output / "config.yaml"), str(output / "model_final.pth"), "--output", str(values)]
    monkeypatch.setattr(sys, "argv", [*line, "--batches", "10"])
    capsys.readouterr()
    main()
    (found,) = json.loads(values.read_text())
    assert found["iteration"] == len(updates) == 20
    assert -1 <= found["queries"] <= 1
    assert len(found["own"]) == len(found["others"]) == GROUPS
    assert capsys.readouterr().out.strip().endswith(table([found]))


def test_similarities__are_means_by_age():
    similarity, index = torch.rand(6, 30), torch.tensor([3, 5, 8, 13, 21, 4])
    ages = torch.arange(30) % 11  # 0 is unknown; two ages in each of the five groups
    found = similarities(similarity, index, ages, epoch=10)
    for group in range(GROUPS):
        own, others = [], []
        for query in range(6):
            for entry in range(30):
                if ages[entry] in (2 * group + 1, 2 * group + 2):
                    (own if entry == index[query] else others).append(similarity[query, entry].item())
        assert own
        assert found["own"][group] == pytest.approx(sum(own) / len(own))
        assert found["others"][group] == pytest.approx(sum(others) / len(others))
