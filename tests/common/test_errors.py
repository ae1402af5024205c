import pytest

from mocodet.common.errors import errors_in_one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("SOLVER.X is 3"), "error: SOLVER.X is 3"),
        (FloatingPointError("diverged"), "error: diverged"),
        (FileNotFoundError("no config"), "error: no config"),
        (OSError(28, "No space left on device", "moco.pth"), "error: [Errno 28] No space left on device: 'moco.pth'"),
    ],
)
def test_errors_in_one_line(error, line, monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as caught, errors_in_one_line():
        raise error
    assert caught.value.code == line  # what the interpreter writes to stderr, with status 1
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")
    with pytest.raises(type(error)), errors_in_one_line():
        raise error


def test_errors_in_one_line__faults_of_the_program_keep_their_traceback(monkeypatch):
    monkeypatch.delenv("MOCODET_TRACEBACK", raising=False)
    with pytest.raises(RuntimeError, match="a fault"), errors_in_one_line():
        raise RuntimeError("a fault")
    with pytest.raises(SystemExit, match=r"^error: a trial failed$"), errors_in_one_line(RuntimeError):
        raise RuntimeError("a trial failed")
