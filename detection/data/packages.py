"""Packages that only some data sets are read or evaluated with."""

import importlib.util

# evaluator_type -> (modules, the command that installs them). lvis without its dependencies: they name opencv-python,
# which would overwrite opencv-python-headless.
PACKAGES = {
    "lvis": (("lvis",), "pip install --no-deps lvis"),
    "cityscapes_instance": (("cityscapesscripts", "shapely"), "pip install cityscapesscripts shapely"),
}


def require_packages(dataset_name: str, evaluator_type: str | None) -> None:
    """Refuse a data set whose packages are not installed.

    Raises:
        ValueError: the message names them and the command that installs them.
    """
    modules, install = PACKAGES.get(evaluator_type, ((), ""))
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ValueError(
            f"data set {dataset_name} needs the packages {' and '.join(missing)}, not installed here; install them: "
            f" {install}"
        )
