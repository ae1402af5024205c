"""``mocodet study`` with the toy training in the place of ``mocodet train``; run as a file, from anywhere."""

import sys
from pathlib import Path

from mocodet.common.commands.main import main
from mocodet.common.study import check, run

COMMAND = (sys.executable, str(Path(__file__).with_name("toy_training.py")))
# It knows every key but TYPO.
REFUSALS = """
import json, sys
asked = json.load(sys.stdin)
print(json.dumps([f"{file}: no key TYPO" if "TYPO" in dict(pairs) else None for file, *pairs in asked]))
"""


def study(*words: object) -> None:
    """Run ``mocodet study WORDS`` in this process."""
    run.TRAIN_COMMAND, check.CONFIG_COMMAND = COMMAND, (sys.executable, "-c", REFUSALS)
    main(["study", *map(str, words)])


if __name__ == "__main__":
    study(*sys.argv[1:])
