import re

import pytest

from mocodet.common.commands.main import parse
from mocodet.common.commands.table import COMMANDS

STUDY = next(command for command in COMMANDS if command.name == "study")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.yml"], r"study mine.yml not found; expected the path of .*own studies \(studies/own_data.yaml, "),
        (["SOLVER.MAX_ITER", "5", "studies/table_2.yaml"], "study SOLVER.MAX_ITER not found; expected the path of "),
        (["studies/table_2.yaml", "collect"], "'collect' must come before studies/table_2.yaml"),
        (["studies/table_2.yaml", "--init", "a=coco_R_50_C4_1x.yaml"], "table_2.yaml cannot be combined with --init"),
    ],
)
def test_check__refuses(words, message, capsys):
    with pytest.raises(SystemExit):
        parse(STUDY, words)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
