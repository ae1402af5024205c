from pathlib import Path

import numpy as np
import pytest
import torch

from mocodet.detection import Predictor
from mocodet.detection.predict.images import Loaded, in_batches
from tests.detection.predict.families import make_model
from tests.detection.tiny import CLASSES


def test_predictor__names_of_a_checkpoint_without_any(tmp_path, caplog):
    caplog.set_level("INFO", "mocodet")
    cfg, _ = make_model("dc5", tmp_path)
    weights = Path(cfg.OUTPUT_DIR, "model_final.pth")
    kept = torch.load(weights, weights_only=True)
    torch.save({key: value for key, value in kept.items() if key != "classes"}, weights)
    classes = Predictor(cfg, weights).classes
    assert (classes.names, classes.ids) == (CLASSES, (3, 5))
    assert "does not contain its class names; using those of data set" in caplog.text
    cfg.defrost()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("no_such_data_set",)
    predictor = Predictor(str(_saved(cfg, tmp_path)), weights)
    assert (predictor.classes.names, predictor.classes.ids) == (("class 1", "class 2"), (1, 2))
    assert "any readable data set of the config; they are named class 1" in caplog.text
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))):
        with pytest.raises(ValueError, match=r"an image must be an RGB array of H x W x 3 with type uint8; got 4 x 4"):
            predictor([wrong])


def _saved(cfg, folder: Path) -> Path:
    (folder / "other.yaml").write_text(cfg.dump())
    return folder / "other.yaml"


def test_in_batches__images_of_one_size():
    sizes = [1, 2, 1, 3, 1, 2, 4, 5, 6, 7, 8, 9, 1]
    items = [Loaded(i, None, {"image": torch.zeros(3, side, 1)}, "") for i, side in enumerate(sizes)]
    items.insert(4, Loaded(99, None, None, "damaged"))
    batches = list(in_batches(items, 2))
    assert sorted(item.place for batch in batches for item in batch) == [*range(13), 99]
    assert all(
        len(batch) <= 2 and len({item.place < 99 and sizes[item.place] for item in batch}) == 1 for batch in batches
    )
    assert [item.place for item in batches[0]] == [0, 2]
    assert [3] in [[item.place for item in batch] for batch in batches[:-4]]  # it has waited long enough
