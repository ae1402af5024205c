"""``mocodet study`` with the toy training in the place of ``mocodet train``; run as a file, from anywhere."""

import sys
from pathlib import Path

from mocodet.common.commands.main import main
from mocodet.common.study import run

COMMAND = (sys.executable, str(Path(__file__).with_name("toy_training.py")))


def study(*words: object) -> None:
    """Run ``mocodet study WORDS`` in this process."""
    run.TRAIN_COMMAND = COMMAND
    main(["study", *map(str, words)])


if __name__ == "__main__":
    study(*sys.argv[1:])
