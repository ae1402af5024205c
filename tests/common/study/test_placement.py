import itertools

import pytest

from mocodet.common.study import placement
from mocodet.common.study.placement import Slot, slots, visible_gpus


@pytest.mark.parametrize(("gpus", "each"), itertools.product(range(9), [None, *range(4)]))
def test_slots__no_two_share_a_gpu(gpus, each):
    names = [str(number) for number in range(gpus)]
    if each and each > gpus:
        with pytest.raises(ValueError, match=rf"--gpus-per-trial {each} exceeds the number of available GPUs, {gpus}"):
            slots(names, each)
        return
    made = slots(names, each)
    used = [gpu for slot in made for gpu in slot.gpus or ()]
    assert len(used) == len(set(used))
    wanted = min(1, gpus) if each is None else each
    assert len(made) == (gpus // wanted if wanted else 1)
    assert all(len(slot.gpus or ()) == wanted for slot in made)


def test_slots__jobs():
    assert slots([], jobs=3) == [Slot(None, 3)] * 3
    assert slots(["0", "1"], 0, jobs=3) == [Slot((), 3)] * 3
    assert slots(["0", "1", "2"], jobs=2) == [Slot(("0",), 2), Slot(("1",), 2)]
    with pytest.raises(ValueError, match=r"--jobs 3 is too high: 2 GPUs \(4, 5\) allow 2 parallel trials with 1 each"):
        slots(["4", "5"], jobs=3)


def test_slot__environment(monkeypatch):
    monkeypatch.setattr(placement, "threads_for_each", lambda jobs: 16 // jobs)
    assert Slot(None, 1).environment({"A": "b"}) == {"A": "b"}
    assert Slot(None, 4).environment({}) == {"OMP_NUM_THREADS": "4"}
    assert Slot(None, 4).environment({"OMP_NUM_THREADS": "1"}) == {"OMP_NUM_THREADS": "1"}
    assert Slot((), 1).environment({"CUDA_VISIBLE_DEVICES": "0"}) == {"CUDA_VISIBLE_DEVICES": ""}
    assert Slot(("2", "3"), 1).environment({"CUDA_VISIBLE_DEVICES": "0"}) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert Slot(("2", "3"), 1).flags() == ["--num-gpus", "2"]
    assert Slot(("2",), 1).flags() == Slot((), 1).flags() == Slot(None, 1).flags() == []


def test_visible_gpus(monkeypatch, tmp_path):
    assert visible_gpus({"MOCODET_GPUS": "0, 1", "CUDA_VISIBLE_DEVICES": "5"}) == ["0", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}) == ["GPU-a", "GPU-b"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,2"}) == ["0"]
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == []
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    assert visible_gpus({}) == ["0", "1"]
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert visible_gpus({}) == []
