"""``python -m tests.rehearsal.export``: exports all models with random weights and prints a table of the results.

The last layers are scaled so that the detectors find as many objects as possible. Each exported file is compared with
its model on three images of different sizes, as in ``mocodet export``.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from mocodet.detection import Predictor, Trainer
from mocodet.detection.export.run import export
from mocodet.detection.training.checkpoint import MocoDetCheckpointer
from tests.detection.predict.families import spread_scores
from tests.detection.tiny import leaf

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "FPN, boxes": ("coco_R_50_FPN_1x_moco", {"MODEL__MASK_ON": False}),
    "FPN, masks": ("coco_R_50_FPN_1x_moco", {}),
    "FPN, masks, frozen BN": ("lvis_v0.5_R_50_FPN_2x_frozen_bn", {}),
    "FPN, keypoints": ("coco_keypoints_R_50_FPN_2x_moco", {}),
    "FPN, ResNet-18": ("toy_R_18_FPN_moco", {}),
    "C4, boxes": ("pascal_voc_R_50_C4_24k_moco", {}),
    "C4, masks": ("coco_R_50_C4_1x_moco", {}),
    "dilated C5": ("pascal_voc_R_50_DC5_24k_moco", {}),
    "FCN": ("pascal_voc_R_50_FCN_30k_moco", {}),
}


def main() -> None:
    """Export each model, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=400, metavar="N", help="shorter side of the images (default: 400)")
    parser.add_argument("models", nargs="*", help=f"models to export, from: {'; '.join(MODELS)} (default: all)")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    rows = []
    for name in args.models or MODELS:
        rows.append(row(name, args.size))
        print(*rows[-1], sep=" | ", flush=True)
    titles = ["model", "norm", "objects", "largest difference", "file, MB", "seconds"]
    print(f"\n{tabulate(rows, titles, tablefmt='github')}")


def row(name: str, shorter_side: int) -> list[object]:
    """Export a model and return its row of the table."""
    config, keys = MODELS[name]
    cfg = leaf(config, MODEL__WEIGHTS="", INPUT__MIN_SIZE_TEST=shorter_side, **keys)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = Trainer.build_model(cfg)
        spread_scores(model)
        MocoDetCheckpointer(model, folder).save("model_final")
        began, file = time.perf_counter(), Path(folder, "model.ts")
        try:
            agreement = export(Predictor(cfg, Path(folder, "model_final.pth")), file)
        except ValueError as error:
            return [name, cfg.MODEL.RESNETS.NORM, str(error), "", "", ""]
        found = agreement.objects if "FCN" not in name else "all pixels"
        seconds = round(time.perf_counter() - began)
        return [
            name,
            cfg.MODEL.RESNETS.NORM,
            found,
            f"{agreement.difference:.1e}",
            file.stat().st_size // 10**6,
            seconds,
        ]


if __name__ == "__main__":
    main()
