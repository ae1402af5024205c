"""detectron2's main imports cityscapesScripts by a name inside Meta; here that name leads to the installed package."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# Upstream has had it since commit 4823082 (2024-12-19), for all seven imports; 02b5c4e (2026-06-06) has it still.
INSIDE_META = "deeplearning.projects.cityscapesApi"


class CityscapesScripts(importlib.abc.Loader):
    """Finder and loader of the modules `cityscapesscripts.…` under the name that they have inside Meta.

    Packages under that name are empty. A module under it *is* the installed one, not a second copy: whoever replaces
    something in the one (as `mocodet`'s evaluator does) replaces it for both names.
    """

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where ``name`` is, or None for every other name and for what the installed package lacks."""
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
        """Let Python make an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the installed module in the place of ``module``, as the import system allows."""
        sys.modules[module.__name__] = importlib.import_module(module.__name__.removeprefix(f"{INSIDE_META}."))


def register() -> None:
    """Make the name known, after all that Python finds itself: a module that is really there wins."""
    sys.meta_path.append(CityscapesScripts)
