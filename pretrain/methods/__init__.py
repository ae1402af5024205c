"""Pre-training methods, one file each, based on the `Method` class in ``base.py``.

To add a method, add a file with a subclass of `Method`. All files in this folder are imported automatically. A method
defined elsewhere is registered when its module is imported.
"""

from importlib import import_module
from pkgutil import iter_modules

from .base import METHODS, Method
from .dense import DenseContrast
from .end_to_end import EndToEnd
from .memory_bank import MemoryBank
from .moco import MomentumContrast
from .supervised import SupervisedClassifier

for _module in iter_modules(__path__):
    import_module(f".{_module.name}", __name__)

__all__ = ["METHODS", "DenseContrast", "EndToEnd", "MemoryBank", "Method", "MomentumContrast", "SupervisedClassifier"]
