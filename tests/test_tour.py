"""The notebook docs/tour.ipynb: it runs, at toy size, and shows what a whole run has put out."""

import json
import logging
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

FILE = Path(__file__).parents[1] / "docs" / "tour.ipynb"
CELLS = [cell for cell in json.loads(FILE.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
TOY_SIZE = {"UNLABELLED, BATCH, QUEUE, STEPS": (16, 8, 16, 2), "LABELLED, TEST, ITERATIONS": (8, 8, 2)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.disable(logging.NOTSET)  # as the notebook leaves it
    plt.close("all")


def test_tour__runs(place):
    names: dict[str, object] = {}
    for cell in CELLS:
        source = "".join(cell["source"])
        if "parameters" in cell["metadata"].get("tags", ()):
            for assigned, values in TOY_SIZE.items():
                source, found = re.subn(rf"(?m)^{assigned} = [\d, ]+", f"{assigned} = {values}  ", source)
                assert found == 1
        exec(compile(source, f"{FILE.name}, {cell['id']}", "exec"), names)
    # Two batches of eight have replaced all sixteen keys, and the queue begins anew.
    assert names["moco"].queue_ptr.item() == 0
    assert len(names["curves"]["loss"]) == 2
    assert "AP" in names["results"]["bbox"]
    assert len(names["scenes"]) == 4


def test_tour__shows_what_a_whole_run_has_put_out():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    # Neither errors nor warnings; paths and times of a machine would be in a log.
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result"}
    assert FILE.stat().st_size < 500_000
