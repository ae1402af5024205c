"""Maps the Meta-internal name under which detectron2 main imports cityscapesScripts to the installed package."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# Upstream has used this name for all seven imports since commit 4823082 (2024-12-19), and still did in 02b5c4e
# (2026-06-06).
INSIDE_META = "deeplearning.projects.cityscapesApi"


class CityscapesScripts(importlib.abc.Loader):
    """Finds and loads the modules `cityscapesscripts.…` under their Meta-internal name.

    The parent packages in that name are empty. A module below them *is* the installed module, not a second copy, so
    replacing an attribute of one (as mocodet's evaluator does) replaces it under both names.
    """

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of module ``name``, or None if it is not under the Meta-internal name or not installed."""
        if f"{INSIDE_META}.".startswith(f"{name}."):
            return ModuleSpec(name, None, is_package=True)
        if not name.startswith(f"{INSIDE_META}.cityscapesscripts"):
            return None
        installed = importlib.util.find_spec(name.removeprefix(f"{INSIDE_META}."))
        if installed is None:
            return None
        is_package = installed.submodule_search_locations is not None
        return ModuleSpec(name, None if is_package else cls(), is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None to make Python create an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Replace ``module`` in ``sys.modules`` with the installed module, which the import system permits."""
        sys.modules[module.__name__] = importlib.import_module(module.__name__.removeprefix(f"{INSIDE_META}."))


def register() -> None:
    """Append the finder to ``sys.meta_path``, so that any module that Python finds by itself takes precedence."""
    sys.meta_path.append(CityscapesScripts)
