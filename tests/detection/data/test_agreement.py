"""Check and run agree on any data set, and no annotation is dropped silently."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.detection.data.mutations import KINDS, write


@pytest.mark.parametrize("kind", KINDS)
def test_check_and_run_agree(kind, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("mutated") / "set"

    @settings(deadline=None, max_examples=200)
    @given(rng=st.randoms(use_true_random=True))
    def look(rng):
        write(folder, KINDS[kind].files(rng))
        KINDS[kind].judge(folder)

    look()
