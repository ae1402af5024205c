"""The short form of ``python -m tests.rehearsal.fuzz``; test_agreement.py contains that for data sets."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.detection.data.mutations import KINDS
from tests.rehearsal import fuzzing
from tests.rehearsal.fuzz import look_at
from tests.rehearsal.fuzzing import READERS, HangError, Reader, judge, put

# The number of inputs for each reader, depending on their cost.
INPUTS = {
    "checkpoint": 3,
    "resumed": 15,
    "tuned": 5,
    "linear": 10,
    "yaml": 10,
    "shards": 40,
    "inaturalist": 20,
    "study": 40,
}


@pytest.mark.parametrize("name", [name for name in READERS if name not in KINDS])
def test_reader__reads_or_refuses_in_one_line_with_the_files_name(name, tmp_path):
    # The inputs are always the same, because the long form searches for faults and this one detects regressions.
    @settings(deadline=None, max_examples=INPUTS[name], database=None, derandomize=True)
    @given(rng=st.randoms(use_true_random=True))
    def look(rng):
        judge(READERS[name], rng, tmp_path / "drawn")

    look()


def _reader(read: Callable[[list[Path]], object]) -> Reader:
    return Reader(lambda rng, folder: [put(folder / "a", b"")], read)


def _refuse(message: str) -> Callable[[list[Path]], object]:
    def read(files: list[Path]) -> None:
        raise ValueError(message.format(files[0]))

    return read


def test_judge__sees_each_fault(tmp_path, monkeypatch):
    """Check that the tests above can fail."""
    rng, folder = Random(0), tmp_path / "drawn"
    assert judge(_reader(lambda files: None), rng, folder) == "read"
    assert judge(_reader(_refuse("{} is damaged")), rng, folder) == "refused"
    with pytest.raises(AssertionError, match="no file is named"):
        judge(_reader(_refuse("it is damaged")), rng, folder)
    with pytest.raises(AssertionError, match="two"):
        judge(_reader(_refuse("{}\ntwo")), rng, folder)
    with pytest.raises(KeyError):
        judge(_reader(lambda files: {}["a"]), rng, folder)
    monkeypatch.setattr(fuzzing, "LIMIT", 0.05)
    with pytest.raises(HangError):
        judge(_reader(lambda files: time.sleep(10)), rng, folder)


def test_look_at__counts_and_keeps_what_was_misjudged(tmp_path, monkeypatch):
    def read(files: list[Path]) -> None:
        if files[0].read_bytes() == b"2":
            os._exit(3)
        raise KeyError("a") if files[0].read_bytes() == b"1" else ValueError(f"{files[0]} is damaged")

    monkeypatch.setitem(
        READERS, "made up", Reader(lambda rng, folder: [put(folder / "a", b"%d" % rng.randrange(3))], read)
    )
    drawn = [Random(f"0/{place}").randrange(3) for place in range(9)]
    counts = look_at("made up", tmp_path, 9, seed=0, seconds=None)
    assert counts == {word: drawn.count(n) for n, word in enumerate(("refused", "misjudged", "end")) if n in drawn}
    kept = {int(path.name.partition("_")[2]) for path in tmp_path.glob("misjudged_*")}
    assert kept == {place for place, number in enumerate(drawn) if number}
