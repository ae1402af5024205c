"""The processes that tests start."""

import os

from .processes import forking, run_in_processes


def told() -> str | None:
    return os.environ.get("MOCODET_TEST")


def tell(queue) -> None:
    queue.put(told())


def test_processes__have_the_environment_of_the_test_that_starts_them(monkeypatch):
    queue = forking().SimpleQueue()
    for value in ("one", "another"):
        monkeypatch.setenv("MOCODET_TEST", value)
        process = forking().Process(target=tell, args=(queue,))
        process.start()
        assert queue.get() == value
        process.join()
    assert run_in_processes(told) == ["another", "another"]
    monkeypatch.delenv("MOCODET_TEST")
    assert run_in_processes(told) == [None, None]
