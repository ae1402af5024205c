import sys
from types import ModuleType

import pytest


@pytest.fixture
def package(tmp_path, monkeypatch) -> ModuleType:
    """A package ``lazily`` that exports ``VALUE`` of its module ``slow``."""
    (tmp_path / "lazily").mkdir()
    (tmp_path / "lazily" / "slow.py").write_text("VALUE = object()\n")
    (tmp_path / "lazily" / "__init__.py").write_text(
        "from mocodet.common.lazy import lazy_exports\n"
        "__getattr__, __dir__ = lazy_exports(__name__, {'VALUE': '.slow', 'GONE': '.slow'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import lazily

    yield lazily
    for name in ("lazily", "lazily.slow"):
        sys.modules.pop(name, None)


def test_lazy_exports__imports_when_asked(package):
    assert "VALUE" in dir(package)
    assert "lazily.slow" not in sys.modules
    assert package.VALUE is sys.modules["lazily.slow"].VALUE
    assert vars(package)["VALUE"] is package.VALUE  # the next access does not import it


def test_lazy_exports__other_names(package):
    with pytest.raises(AttributeError, match="module 'lazily' has no attribute 'other'"):
        _ = package.other
    with pytest.raises(ImportError, match="cannot import name 'GONE'"):
        from lazily import GONE  # noqa: F401
