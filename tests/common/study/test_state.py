"""Files in a trial's folder that no study wrote: one line with the file, and what to do."""

import json

import pytest

from mocodet.common.report.read import read_study
from mocodet.common.study.state import read_outcome, read_recipe
from tests.rehearsal.fuzzing import _results

OUTCOME = {"status": "finished", "reason": None, "metrics": {"bbox/AP": 3.0}, "seconds": 1.5, "whole": True}
RECIPE = {"config": "a.yaml", "settings": {}, "weights": None}


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "null", "\ud800", "[" * 5000]
    + [json.dumps(OUTCOME | change) for change in ({"status": 3}, {"metrics": {"bbox/AP": "3"}}, {"seconds": {}})]
    + [json.dumps({"status": "finished"}), json.dumps(RECIPE | {"settings": []}), json.dumps(RECIPE | {"weights": 1})],
)
def test_read__forged_files_of_a_trial(content, tmp_path):
    for name, read in (("outcome.json", read_outcome), ("trial.json", read_recipe)):
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(ValueError, match=rf"^{tmp_path}/{name} (is not JSON \(|does not contain a valid )"):
            read(tmp_path)


def test_read__sound_ones(tmp_path):
    assert read_outcome(tmp_path) is read_recipe(tmp_path) is None
    (tmp_path / "outcome.json").write_text(json.dumps(OUTCOME))
    (tmp_path / "trial.json").write_text(json.dumps(RECIPE))
    assert vars(read_outcome(tmp_path)) == OUTCOME
    assert read_recipe(tmp_path) == RECIPE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": [3]}, "detector of trial 0 is 3"),
        ({"trials": []}, "it contains no trial of FPN from random"),
        ({"reference": "coco"}, "reference 'coco' is not one of inits"),
        ({"fractions": ["all"]}, r"fractions is \['all'\]"),
        ({"weights": {"moco": "a.pkl"}}, "weights is "),
    ],
)
def test_read_study__forged_results(change, message, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(_results()[0] | change))
    with pytest.raises(ValueError, match=rf"^{tmp_path}/results\.json is damaged: {message}"):
        read_study(tmp_path)
