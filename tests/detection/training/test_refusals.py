import io
import json
import sys

from mocodet.detection.training import refusals


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
