"""Shared code of the tests of ``mocodet benchmark``."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest

from mocodet.common.benchmark.alternate import Clock, Seconds, alternate


def run_once(monkeypatch: pytest.MonkeyPatch, part: ModuleType) -> None:
    """Let ``part`` run its contestants once for each pair, and nothing between."""

    def once(contestants: Mapping[str, Callable[[], Any]], pairs: int, clock: Clock, **_: Any) -> Seconds:
        return alternate(contestants, pairs, clock, warm_up=0, before=lambda: None)

    monkeypatch.setattr(part, "alternate", once)
