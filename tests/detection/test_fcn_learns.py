import json

from detectron2.utils.env import seed_all_rng

from mocodet.detection.data import register_datasets
from mocodet.detection.training.preflight import check_datasets
from mocodet.detection.training.trainer import Trainer
from tests.detection.tiny import SEGMENTS, fcn_config, make_semseg

ITERATIONS = 180


def test_fcn__learns_a_toy_set(tmp_path):
    train, test = make_semseg(tmp_path, 64), make_semseg(tmp_path, 16, "test", first=1000)
    cfg = fcn_config(
        tmp_path / "output",
        train,
        test,
        SOLVER__IMS_PER_BATCH=8,
        SOLVER__BASE_LR=0.1,
        SOLVER__WARMUP_ITERS=10,
        SOLVER__MAX_ITER=ITERATIONS,
        SOLVER__STEPS=(7 * ITERATIONS // 10, 9 * ITERATIONS // 10),
        TEST__PRECISE_BN__NUM_ITER=10,
    )
    register_datasets(cfg)
    check_datasets(cfg, training=True)
    seed_all_rng(cfg.SEED)
    results = Trainer(cfg).train()["sem_seg"]
    assert results["mIoU"] > 80
    assert min(results[f"IoU-{name}"] for name in SEGMENTS) > 60
    written = json.loads((tmp_path / "output" / "results.json").read_text())
    assert written == {test["NAME"]: {"sem_seg": results}}
