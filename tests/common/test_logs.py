"""Records from before a run has a folder are in the folder's log later."""

import logging
import threading

import pytest

from mocodet.common.logs import NAMES, log_to, tracebacks_in_log_file
from tests.faults import files_of_at_most


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


def test_log_to__a_full_disk_is_said_once_and_the_log_goes_on_when_there_is_room(tmp_path, capsys):
    logger = logging.getLogger("mocodet")
    try:
        log_to(str(tmp_path))
        with files_of_at_most(10):
            logger.info("refused")
            logging.getLogger("fvcore").info("refused, too")
        shown = capsys.readouterr()
        logger.info("room again")
    finally:
        for name in NAMES:
            logging.getLogger(name).handlers.clear()
    assert shown.out.count("refused") == 2
    assert shown.err == f"{tmp_path / 'log.txt'} is incomplete from here on: File too large\n"
    assert (tmp_path / "log.txt").read_text().endswith("room again\n")


def fail_as_detectron2_does() -> None:  # in a thread, too
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.info("a step")
    thread = threading.Thread(target=[].pop)
    thread.start()
    thread.join()
    try:
        raise RuntimeError("the cause")
    except RuntimeError as error:
        loop.exception("Exception during training:")
        raise OSError("told") from error


def test_tracebacks_in_log_file__and_not_on_the_terminal(tmp_path, capsys):
    try:
        log_to(str(tmp_path))
        with pytest.raises(OSError, match="told"), tracebacks_in_log_file():
            fail_as_detectron2_does()
        shown = capsys.readouterr()
    finally:
        for name in NAMES:
            logging.getLogger(name).handlers.clear()
    assert "a step" in shown.out
    assert "Traceback" not in shown.out + shown.err
    log = (tmp_path / "log.txt").read_text()
    assert log.count("IndexError: pop from empty list") == 1
    assert log.count("RuntimeError: the cause") == log.count("OSError: told") == 1
