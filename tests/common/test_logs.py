"""What is logged before a run has a folder is in the folder's log once it has one."""

import logging

from mocodet.common.logs import NAMES, log_to


def test_log_to__keeps_what_comes_before_the_folder(tmp_path, capsys):
    logger = logging.getLogger("mocodet.somewhere")
    try:
        log_to(None)
        logger.warning("an annotation was repaired")
        assert capsys.readouterr().out.count("an annotation was repaired") == 1
        log_to(str(tmp_path / "first"))
        logger.warning("the run begins")
        assert capsys.readouterr().out.count("\n") == 1  # the first message is not shown again
        log_to(str(tmp_path / "second"))
        logger.warning("another run")
    finally:
        for name in NAMES:
            logging.getLogger(name).handlers.clear()
    first, second = ((tmp_path / name / "log.txt").read_text().splitlines() for name in ("first", "second"))
    assert [line.rpartition(": ")[2] for line in first] == ["an annotation was repaired", "the run begins"]
    assert [line.rpartition(": ")[2] for line in second] == ["another run"]
