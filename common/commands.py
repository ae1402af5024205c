"""The installed commands: quiet about warnings that are not the user's, then the package's own ``main``."""

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


def convert() -> None:
    """Run ``mocodet-convert``."""
    _run("mocodet.detection.convert_cli")


def train() -> None:
    """Run ``mocodet-train``."""
    _run("mocodet.detection.cli")


def classify() -> None:
    """Run ``mocodet-classify``."""
    _run("mocodet.pretrain.classify_cli")


def _run(module: str) -> None:
    for beginning in NOT_THE_USERS:
        warnings.filterwarnings("ignore", message=re.escape(beginning))
    # For processes that this one starts; the interpreter escapes each message itself.
    inherited = [os.environ["PYTHONWARNINGS"]] if os.environ.get("PYTHONWARNINGS") else []
    filters = [f"ignore:{beginning}" for beginning in NOT_THE_USERS]
    os.environ["PYTHONWARNINGS"] = ",".join(inherited + filters)
    # Not before the filters: the warnings come with the imports.
    sys.exit(importlib.import_module(module).main())
