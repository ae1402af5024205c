"""The installed commands: quiet about warnings that are not the user's, then the package's own."""

import importlib
import os
import re
import sys
import warnings

# Beginnings of what PyTorch says of detectron2's code, at import and in every process that is started.
NOT_THE_USERS = (
    "`torch.jit.script` is deprecated",
    "`torch.jit.script_method` is deprecated",
    "torch.meshgrid",
    "pkg_resources is deprecated",
)


def pretrain() -> None:
    """Run ``mocodet-pretrain``."""
    _run("mocodet.pretrain.cli")


def classify() -> None:
    """Run ``mocodet-classify``."""
    _run("mocodet.pretrain.classify_cli")


def knn() -> None:
    """Run ``mocodet-knn``."""
    _run("mocodet.pretrain.evaluation.cli", "knn_main")


def linear() -> None:
    """Run ``mocodet-linear``."""
    _run("mocodet.pretrain.evaluation.cli", "linear_main")


def shards() -> None:
    """Run ``mocodet-shards``."""
    _run("mocodet.pretrain.data.make_shards")


def costs() -> None:
    """Run ``mocodet-costs``."""
    _run("mocodet.pretrain.costs")


def convert() -> None:
    """Run ``mocodet-convert``."""
    _run("mocodet.detection.convert_cli")


def train() -> None:
    """Run ``mocodet-train``."""
    _run("mocodet.detection.cli")


def evaluate() -> None:
    """Run ``mocodet-evaluate``."""
    _run("mocodet.detection.evaluation.cli")


def visualize() -> None:
    """Run ``mocodet-visualize``."""
    _run("mocodet.detection.visualize_cli")


def prepare_data() -> None:
    """Run ``mocodet-prepare-data``."""
    _run("mocodet.common.prepare.cli")


def rehearse() -> None:
    """Run ``tools/run_all_configs.py``."""
    _run("mocodet.detection.rehearsal.cli")


def _run(module: str, function: str = "main") -> None:
    for beginning in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message=re.escape(beginning))
    # For processes that this one starts; the interpreter escapes each message itself.
    inherited = [os.environ["PYTHONWARNINGS"]] if os.environ.get("PYTHONWARNINGS") else []
    filters = [f"ignore:{beginning}" for beginning in NOT_THE_USERS]
    os.environ["PYTHONWARNINGS"] = ",".join(inherited + filters)
    # Not before the filters: the warnings come with the imports.
    sys.exit(getattr(importlib.import_module(module), function)())
