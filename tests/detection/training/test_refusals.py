import io
import json
import pickle
import sys

import numpy as np

from mocodet.detection.training import refusals
from mocodet.detection.weights.settings import AUTHOR, REQUIRED_CONFIG, SETTINGS_KEY


def test_refusal__weights_for_images_with_channels_in_another_order(tmp_path):
    weights = tmp_path / "moco.pkl"
    content = {"model": {"stem.conv1.weight": np.zeros(1, np.float32)}, "__author__": AUTHOR}
    weights.write_bytes(pickle.dumps(content | {SETTINGS_KEY: REQUIRED_CONFIG, "assumed": []}))
    opts = ["MODEL.WEIGHTS", str(weights)]
    found = refusals.refusal("coco_R_50_FPN_1x.yaml", opts)
    assert found.startswith(f"MODEL.WEIGHTS {weights}: the weights were trained on images of INPUT.FORMAT RGB, but the")
    assert refusals.refusal("coco_R_50_FPN_1x_moco.yaml", opts) is None
    by_name = ["MODEL.WEIGHTS", f"moco://{weights}"]
    assert "trained on images of INPUT.FORMAT RGB" in refusals.refusal("coco_R_50_FPN_1x.yaml", by_name)


def test_main__says_of_each_config_what_is_wrong_with_it(monkeypatch, capsys):
    asked = {
        "nothing": ["coco_R_50_FPN_1x_moco.yaml", ["MOCO.TRAIN_FRACTION", "0.1"], ["MODEL.WEIGHTS", "none.pkl"]],
        "unknown key SOLVER.MAX_ITERS; did you mean SOLVER.MAX_ITER?": [
            "coco_R_50_FPN_1x.yaml",
            ["SOLVER.MAX_ITERS", "5"],
        ],
        "MOCO.PASSES": ["coco_R_50_FPN_1x.yaml", ["MOCO.PASSES", "0.5"]],
        "MOCO.AMP_DTYPE must be one of": ["coco_R_50_FPN_1x.yaml", ["MOCO.AMP_DTYPE", "half"]],
        "MOCO.TRAIN_FRACTION must be above 0": ["coco_R_50_FPN_1x.yaml", ["MOCO.TRAIN_FRACTION", "2.0"]],
        "DATASETS contains voc_2008_test, which neither": [
            "pascal_voc_R_50_C4_24k.yaml",
            ["DATASETS.TEST", "('voc_2008_test',)"],
        ],
        "KIND must be one of": ["coco_R_50_FPN_1x.yaml", ["MOCO.DATASETS", "[{'NAME': 'a', 'KIND': 'vos'}]"]],
        "there is no config 'nowhere.yaml'; ": ["nowhere.yaml"],
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(list(asked.values()))))
    refusals.main()
    fine, *refused = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert fine is None
    for reason, found in zip([*asked][1:], refused, strict=True):
        assert reason in found
