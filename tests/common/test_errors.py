import pytest
from torch._utils import ExceptionWrapper

from mocodet.common.errors import errors_in_one_line, message_of


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


def test_message_of__an_error_of_a_loader_process():
    for error in (ValueError("a: b\nand  c"), FileNotFoundError(2, "No such file", "a"), KeyError("a")):
        try:
            try:
                raise TypeError("the cause: of it")
            except TypeError as cause:
                raise error from cause
        except Exception:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 3")
        with pytest.raises(type(error)) as raised:
            wrapped.reraise()
        assert message_of(raised.value) == " ".join(str(error).split())
    assert message_of(ValueError("two\nlines")) == "two\nlines"
