"""Reports errors in the configs of trials to a study, which does not import detectron2.

``python -m mocodet.detection.training.refusals`` reads a JSON list of ``[file, [KEY, VALUE], ...]`` from stdin. The
last line of its stdout is a JSON list with an error message for each config, or null for a config without errors.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cache

from mocodet.common.config.weights import weights_file

from ..weights.settings import settings_of
from .preflight import check_augmentation, check_channels_of_weights, check_config, check_labels, check_names
from .run import read_config

read_settings = cache(settings_of)  # many trials start from the same file


def refusal(config_file: str, opts: Sequence[str]) -> str | None:
    """Return the error that a training run would raise for a config before reading data, or None.

    Missing weights are not an error here, because a trial that resumes does not read them.
    """
    try:
        cfg = read_config(argparse.Namespace(config_file=config_file, opts=opts, scale_to_gpus=False))
        for check in (check_config, check_augmentation, check_labels):
            check(cfg)
        check_names(cfg, [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
        file = weights_file(cfg.MODEL.WEIGHTS)
        if file and file.is_file():
            check_channels_of_weights(cfg, file, read_settings)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def main() -> None:
    """Read the request from stdin, and print the errors."""
    asked = json.load(sys.stdin)
    print(json.dumps([refusal(file, [word for pair in pairs for word in pair]) for file, *pairs in asked]))


if __name__ == "__main__":
    main()
