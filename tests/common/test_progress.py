import io

import pytest
import tqdm.std

from mocodet.common.progress import duration, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def work(seconds: list[float], stream: io.StringIO, clock: Clock) -> list[str]:
    """Work some seconds on each item; return the content of the stream at the start of each, and at the end."""
    shown = []
    for number, item in enumerate(progress(seconds, "image", len(seconds), stream=stream, clock=clock)):
        assert item == seconds[number]
        shown.append(stream.getvalue())
        clock.now += item
    return [*shown, stream.getvalue()]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress__nothing_of_short_work(stream, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tqdm.std, "time", clock)
    assert work([1.0] * 9, stream, clock)[-1] == ""


def test_progress__lines_where_there_is_no_terminal():
    shown = work([4.0] * 20, io.StringIO(), Clock())
    lines = [
        "image 3 of 20, about 68 s left\n",
        "image 11 of 20, about 36 s left\n",
        "image 19 of 20, about 4 s left\n",
    ]
    # The first after ten seconds, each other one after thirty more.
    for place, count in ((2, 0), (3, 1), (10, 1), (11, 2), (18, 2), (19, 3), (20, 3)):
        assert shown[place] == "".join(lines[:count]), place


def test_progress__what_is_slow_is_told_after_each_item():
    assert work([600.0] * 3, io.StringIO(), Clock())[-1] == (
        "image 1 of 3, about 20 min left\nimage 2 of 3, about 10 min left\n"
    )


@pytest.mark.parametrize("columns", ["80", "0"])
def test_progress__bar_on_a_terminal(monkeypatch, columns):
    clock = Clock()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(tqdm.std, "time", clock)
    shown = work([8.0] * 4, Terminal(), clock)
    assert shown[1] == ""
    assert "2/4 [00:16<00:16" in shown[2]
    assert "3/4 [00:24<00:08" in shown[3]
    assert not shown[-1].rpartition("\r")[2].strip(), "the bar vanishes"
    assert "\n" not in shown[-1]


def test_progress__errors_pass():
    def items():
        yield 1
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(progress(items(), "image", 2, stream=io.StringIO()))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89.4, "89 s"), (90, "2 min"), (3569, "59 min"), (3571, "1:00 h"), (7800, "2:10 h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
