"""Rows, tables and the JSON file of ``mocodet benchmark``."""

import argparse
import json
import logging

import pytest
import torch

from mocodet.common.benchmark import run
from mocodet.common.benchmark.alternate import CPU
from mocodet.common.benchmark.report import Row, rows_of, table

SECONDS = {"plain": [4.0, 4.0, 8.0], "ours": [2.0, 1.0, 2.0], "cached": [0.5, 0.5, 0.5], "least": [1.0, 1.0, 1.0]}


def rows() -> list[Row]:
    return rows_of(
        "a thing",
        SECONDS,
        reference="plain",
        clock=CPU,
        items=(6, "images"),
        limit="least",
        unbounded=["cached"],
        settings={"size": 3},
        details={"ours": {"MiB": "7"}},
    )


def test_rows_of__rates_ratios_and_limit():
    plain, ours, cached, least = rows()
    assert [row.contestant for row in (plain, ours, cached, least)] == list(SECONDS)
    assert {row.reference for row in rows()} == {"plain"}
    assert (ours.unit, ours.value, plain.value) == ("images/s", 3.0, 1.5)
    assert ours.ratio.median == 4.0  # of 2, 4, 4
    assert (ours.ratio.low, ours.ratio.high) == (3.0, 4.0)
    assert (ours.pairs, ours.clock) == (3, "CPU")
    assert (ours.share, plain.share, least.share) == (0.5, 0.25, 1.0)
    assert ours.limit_ratio == 4.0
    assert cached.share is None
    assert ours.machine["threads"] == torch.get_num_threads()


def test_rows_of__seconds_without_limit():
    (row,) = rows_of("x", {"plain": [1.0, 3.0]}, reference="plain", clock=CPU)
    assert (row.unit, row.value, row.share, row.limit_ratio) == ("s", 2.0, None, None)
    assert "limit" not in table([row])


def test_table__shows_every_row_with_its_own_columns():
    printed = table(rows())
    title, _, heads, _, *lines = printed.strip().splitlines()
    assert title == "**a thing** (CPU time, median of 3); limit, least: 4.00 times the reference"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (heads, *lines)]
    assert cells == [
        ["", "images/s", "times the reference", "quartiles", "of the limit", "MiB"],
        ["plain", "1.5", "1.00", "1.00–1.00", "25%", ""],
        ["ours", "3", "4.00", "3.00–4.00", "50%", "7"],
        ["cached", "12", "8.00", "8.00–12.00", "", ""],
        ["least", "6", "4.00", "4.00–6.00", "100%", ""],
    ]


def measure(args: argparse.Namespace):
    logging.getLogger("mocodet").warning("must not be seen")
    yield rows()
    if args.fails:
        raise ValueError("what went wrong")


@pytest.mark.parametrize("fails", [False, True])
def test_main__writes_what_it_has(fails, tmp_path, capsys, caplog):
    file = tmp_path / "rows.json"
    one = argparse.Namespace(does=f"{__name__}:measure", fails=fails)
    args = argparse.Namespace(runs=[one], threads=torch.get_num_threads(), output=str(file))
    if fails:
        with pytest.raises(SystemExit, match="error: what went wrong"):
            run.main(args)
    else:
        run.main(args)
    assert table(rows()) in capsys.readouterr().out
    assert not caplog.records
    written = json.loads(file.read_text())
    assert [row["contestant"] for row in written] == list(SECONDS)
    assert written[1]["ratio"] == {"median": 4.0, "low": 3.0, "high": 4.0}
    assert written[1]["settings"] == {"size": 3}
    logging.getLogger("mocodet").warning("seen again")
    assert caplog.records
