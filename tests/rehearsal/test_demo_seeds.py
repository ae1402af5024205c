import json
import re
import runpy

import numpy as np
import pytest
from scipy import stats

from tests.rehearsal.demo_seeds import METRICS, metrics_of, table


def study(values: dict[str, np.ndarray]) -> dict:
    """Return the results of a study; ``values`` contains trials x metrics for each initialisation."""
    trials = [
        {
            "detector": "detector",
            "init": init,
            "fraction": 1.0,
            "seed": seed,
            "status": "finished",
            "metrics": dict(zip(METRICS.values(), map(float, metrics), strict=True)),
        }
        for init, of_init in values.items()
        for seed, metrics in enumerate(of_init)
    ]
    names = {"detectors": ["detector"], "inits": list(values), "fractions": [1.0], "seeds": [0, 1]}
    return {"reference": "random", "trials": trials, **names}


def test_table__interval_is_the_paired_t_tests_over_the_means_of_each_seed():
    rng = np.random.default_rng(0)
    random, moco = rng.normal(9, 1, (4, 2, 3)), rng.normal(12, 2, (4, 2, 3))  # seeds x trials x metrics
    text = table({seed: study({"moco": moco[seed], "random": random[seed]}) for seed in range(4)})
    for n, name in enumerate(METRICS):
        expected = stats.ttest_rel(moco[:, :, n].mean(1), random[:, :, n].mean(1)).confidence_interval(0.95)
        low, high = re.search(rf"\| {name} +\|[^|]*\| \[(\S+), (\S+)\]", text).groups()
        assert [float(low), float(high)] == pytest.approx([expected.low, expected.high], abs=0.05)
    means = re.search(r"\| mean +\|(.*)\|", text)[1].split("|")
    assert [float(mean) for mean in means] == pytest.approx(
        [*random.mean((0, 1)), *moco.mean((0, 1))],
        abs=0.05,
    )


def test_metrics_of__are_enough_for_the_table_and_contain_no_path():
    results = study({"random": np.array([[5.0, 5.0, 5.0]] * 2), "moco": np.array([[7.0, 6.0, 5.0]] * 2)})
    whole = {**results, "trials": [{**trial, "command": ["mocodet"], "folder": "/mine"} for trial in results["trials"]]}
    assert metrics_of({**whole, "weights": {"moco": {"path": "/mine/moco.pkl"}}}) == results
    assert table({0: metrics_of(whole)}) == table({0: whole})


def test_demo__says_at_its_end_what_its_study_shows(tmp_path):
    content = study({"random": np.array([[5.0, 5.0, 5.0]] * 2), "moco": np.array([[7.0, 6.0, 5.0]] * 2)})
    (tmp_path / "results.json").write_text(json.dumps(content))
    finding = runpy.run_path("tools/demo.py")["finding"](tmp_path)
    assert finding.startswith("Result of 2 pairs of trials: moco is better than random by 2.0 ")
