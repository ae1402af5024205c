"""The flags of ``mocodet benchmark``: defaults in full and quick, all parts in order, refusals."""

import pytest

from mocodet.common.commands.benchmark import ALL, PARTS
from tests.commands import parsed


def test_parse__without_a_part_all_are_measured_in_order():
    args = parsed("benchmark", ["--threads", "2", "--json", "x.json"])
    assert [run.part for run in args.runs] == [words[0] for words in ALL]
    assert {run.part for run in args.runs} == {part.name for part in PARTS}
    assert (args.threads, args.output) == (2, "x.json")
    training = [run for run in args.runs if run.part == "train"]
    assert [run.detection for run in training] == [False, True]
    assert [run.does.split(".")[1] for run in training] == ["pretrain", "detection"]


def test_parse__flags_before_and_after_the_part():
    args = parsed("benchmark", ["--threads", "2", "--json", "x.json", "step", "--threads", "3"])
    assert (args.threads, args.output) == (3, "x.json")


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_parse__quick_gives_way_to_what_is_given(part):
    flags = {flag.name.replace("-", "_"): flag for flag in part.flags}
    (full,), (quick,) = (parsed("benchmark", [part.name, *words]).runs for words in ([], ["--quick"]))
    assert {name: getattr(full, name) for name in flags} == {name: flag.full for name, flag in flags.items()}
    assert {name: getattr(quick, name) for name in flags} == {
        name: flag.full if flag.quick is None else flag.quick for name, flag in flags.items()
    }
    (given,) = parsed("benchmark", [part.name, "--quick", "--pairs", "7"]).runs
    assert given.pairs == 7


def test_parse__queues():
    (run,) = parsed("benchmark", ["step", "--queue"]).runs
    assert (run.queue, [case.size for case in run.case]) == ([256, 65536, 262144], [48])
    (run,) = parsed("benchmark", ["step", "--queue", "8", "16", "--case", "resnet34,32,24"]).runs
    assert (run.queue, run.case) == ([8, 16], [("resnet34", 32, 24)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed"], "invalid choice: 'speed'"),
        (["step", "--case", "resnet50,224"], "expected ARCH,SIZE,BATCH such as resnet50,224,16, got 'resnet50,224'"),
        (["step", "--case", "resnet50,0,16"], "expected ARCH,SIZE,BATCH"),
        (["step", "--case", "resnet50,224,12"], "--case resnet50,224,12: batch normalisation uses 8 groups"),
        (["step", "--case", "resnet50,224,8"], "--case resnet50,224,8: batch normalisation uses 8 groups"),
        (["step", "--queue", "256"], "--queue 256: expected at least two lengths"),
        (["step", "--pairs", "0"], "--pairs: invalid positive int value: '0'"),
        (["--threads", "0"], "--threads: invalid positive int value: '0'"),
        (["input", "--workers", "-1"], "--workers: invalid non-negative int value: '-1'"),
        (["train", "--size", "64"], "--size can only be used with --detection"),
        (["train", "--detection", "--iterations", "2"], "--iterations cannot be used with --detection"),
        (["train", "--config-file", "none.yaml"], "--config-file: there is no config 'none.yaml'"),
        (["evaluate", "--metric", "lvis"], "--metric: invalid choice: 'lvis'"),
        (["collectives", "--processes", "1"], "--processes 1: expected at least two"),
    ],
)
def test_check__refuses(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("benchmark", words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
