import json
import sys
from pathlib import Path

import pytest

from mocodet.common.config.merge import merge_config
from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.costs.measure import Measured
from tests.rehearsal import small_scale
from tests.rehearsal.small_scale import (
    PAIRS,
    RUNS,
    collect,
    main,
    plan_run,
    settings_of,
    table,
    table_of_means,
    table_of_pairs,
)

SECONDS = 0.5  # of a step


@pytest.fixture
def images(tmp_path, monkeypatch) -> str:
    """Return a folder with 960 files that are not read, because the measured duration of a step is fixed."""
    for number in range(960):
        path = tmp_path / "images" / "class" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(small_scale, "measure_run", lambda *_: Measured("cpu", "images", 20, SECONDS, 0.0, {}))
    return str(tmp_path / "images")


@pytest.mark.parametrize("name", RUNS)
def test_runs__have_valid_settings(name, tmp_path):
    cfg = get_cfg()
    merge_config(cfg, RUNS[name].config, settings_of(RUNS[name], "my images", tmp_path))
    check_config(cfg)
    assert cfg.DATA.ROOT == "my images"
    assert RUNS[name].seed == cfg.SEED
    assert str(tmp_path) == cfg.OUTPUT_DIR


@pytest.mark.parametrize("name", ["moco_seed_0", "K_128_90"])
def test_plan__the_epochs_take_the_time_of_the_run(name, images, tmp_path):
    plan = plan_run(RUNS[name], settings_of(RUNS[name], images, tmp_path), images)
    assert plan["images_per_second"] == 64 / SECONDS
    assert plan["epochs"] * 960 / 64 * SECONDS == 60 * RUNS[name].minutes


def test_command__completes_what_is_missing(images, tmp_path, monkeypatch, capsys):
    output, commands = tmp_path / "output", []

    def mocodet(command: str, *arguments: str) -> None:
        commands.append((command, *arguments))
        if command == "pretrain":
            (output / "m_0.9_45" / "model_final.pth").touch()
            lines = [{"iteration": done - 1, "lr": 0.1, "time": 0.6} for done in (20, 5400)]
            (output / "m_0.9_45" / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
        else:
            rows = {
                "knn": [{"k": 200, "top1": 51.0, "top5": 90.0}],
                "linear": [{"lr": 1.0, "top1": 40.0, "best": False}, {"lr": 0.1, "top1": 62.0, "best": True}],
            }
            Path(arguments[-1]).write_text(json.dumps({"checkpoint": "/mine", "results": rows[command]}))

    monkeypatch.setattr(small_scale, "mocodet", mocodet)
    line = ["small_scale", str(output), "--train", images, "--val", images, "--runs", "random_seed_1", "m_0.9_45"]
    monkeypatch.setattr(sys, "argv", line)
    main()
    assert [command for command, *_ in commands] == ["knn", "linear", "pretrain", "knn", "linear"]
    assert commands[0][1:5] == ("--random", "resnet18", "--seed", "1")
    assert commands[2][-2:] == ("SOLVER.MAX_EPOCHS", "360")
    assert commands[3][1] == str(output / "m_0.9_45" / "model_final.pth")
    expected = {
        "random_seed_1": {"knn": 51.0, "linear": 62.0},
        "m_0.9_45": {"images_per_second": 128.0, "epochs": 360, "minutes": 54.0, "knn": 51.0, "linear": 62.0},
    }
    assert json.loads((output / "results.json").read_text()) == collect(output) == expected
    assert capsys.readouterr().out.strip() == "\n\n".join(
        make(expected) for make in (table, table_of_means, table_of_pairs)
    )
    assert "| m_0.9_45      | 128                 | 360      | 54        | 51.0  | 62.0     |" in table(expected)

    (output / "m_0.9_45" / "linear.json").unlink()
    main()
    assert [command for command, *_ in commands[5:]] == ["linear"]


def test_means__are_over_the_seeds_of_a_method_in_the_papers_order():
    results = {
        "moco_seed_0": {"knn": 50.0, "linear": 60.0},
        "random_seed_0": {"knn": 30.0, "linear": 40.0},
        "moco_seed_1": {"knn": 53.0, "linear": 61.0},
        "m_0.9_45": {"knn": 10.0, "linear": 10.0},
    }
    assert rows_of(table_of_means(results)) == [
        ["random", "30.0 (30.0)", "40.0 (40.0)", "33.8"],
        ["moco", "51.5 (50.0, 53.0)", "60.5 (60.0, 61.0)", "55.9"],
    ]


@pytest.mark.parametrize("setting", PAIRS)
def test_pairs__have_the_setting_for_45_and_for_90_minutes(setting, tmp_path):
    keys = {"K": "QUEUE_SIZE", "m": "MOMENTUM"}
    for run, minutes in zip(PAIRS[setting], (45, 90), strict=True):
        cfg = get_cfg()
        merge_config(cfg, RUNS[run].config, settings_of(RUNS[run], "my images", tmp_path))
        for name, value in map(str.split, setting.split(", ")):
            assert cfg.CONTRAST[keys[name]] == float(value)
        assert RUNS[run].minutes == minutes
        assert cfg.SEED == 0


def test_pairs__show_the_accuracies_of_completed_runs():
    results = {
        "moco_seed_0": {"knn": 50.0, "linear": 60.0},
        "moco_90": {"knn": 55.0, "linear": 64.0},
        "m_0.9_90": {"knn": 40.0, "linear": 50.0},
        "dense_seed_0": {"knn": 51.0, "linear": 61.0},
    }
    assert rows_of(table_of_pairs(results)) == [
        ["K 512, m 0.99", "50.0", "55.0", "60.0", "64.0"],
        ["m 0.9", "", "40.0", "", "50.0"],
    ]


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table without its header."""
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
