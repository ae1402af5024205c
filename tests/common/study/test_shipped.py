"""The studies of configs/studies/."""

from functools import cache
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from mocodet import configs
from mocodet.common.config.merge import merge_config
from mocodet.common.study.spec import read_study
from mocodet.common.study.trials import Trial, plan
from mocodet.detection import add_moco_config
from mocodet.detection.densepose import uses_densepose

STUDIES = sorted(path.stem for path in (configs.ROOT / "studies").glob("*.yaml"))


def trials(name: str) -> list[Trial]:
    return plan(read_study(f"studies/{name}.yaml"), Path("output"))


@cache
def defaults() -> CfgNode:
    cfg = get_cfg()
    add_moco_config(cfg)
    return cfg


def test_studies__are_the_papers_tables_a_small_one_and_one_of_own_data():
    assert ["own_data", *(f"table_{n}" for n in (2, 3, 4, 5, 6)), "table_6_lvis", "voc_fashion"] == STUDIES
    assert {name: read_study(f"studies/{name}.yaml").name for name in STUDIES} == {name: name for name in STUDIES}


@pytest.mark.parametrize("name", STUDIES)
def test_studies__every_config_is_there_and_takes_the_overrides(name):
    planned = trials(name)
    assert {trial.seed for trial in planned} in ({0}, {0, 1, 2}, {0, 1, 2, 3, 4})
    for config in {trial.config for trial in planned}:
        assert configs.ROOT in config.parents
        assert config.is_file()
    for trial in {trial.detector: trial for trial in planned if trial.seed == 0 and trial.init == "moco"}.values():
        if not trial.opts.keys() - {"MODEL.WEIGHTS"} or uses_densepose(trial.config):
            continue  # the config alone is tested in tests/detection
        cfg = defaults().clone()
        merge_config(cfg, str(trial.config), [word for pair in trial.opts.items() for word in pair])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # detector, trials, iterations: [P] tables 2 to 5
        ("table_2", {("DC5", 5, 24000), ("C4", 5, 24000)}),
        ("table_3", {("DC5", 5, 24000), ("C4", 5, 24000)}),
        ("table_4", {("C4", 5, 9000)}),
        ("table_5", {("FPN_1x", 1, 90000), ("FPN_2x", 1, 180000), ("C4_1x", 1, 90000), ("C4_2x", 1, 180000)}),
    ],
)
def test_studies__are_as_long_as_the_papers(name, expected):
    planned = [trial for trial in trials(name) if trial.init == "moco"]
    found = set()
    for detector in {trial.detector for trial in planned}:
        of_it = [trial for trial in planned if trial.detector == detector]
        solver = CfgNode.load_yaml_with_base(str(of_it[0].config))["SOLVER"]
        found.add((detector, len(of_it), solver["MAX_ITER"]))
    assert found == expected
