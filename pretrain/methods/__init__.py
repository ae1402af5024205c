"""Pre-training methods, one file each, over the base class in ``base.py``.

To add one, add a file with a subclass of `Method`; every file of this folder is imported here. A method may also live
elsewhere: it is registered when its module is imported.
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
