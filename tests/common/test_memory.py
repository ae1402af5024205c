import os

import torch

from mocodet.common import memory


def write_group(folder, names, values, stat):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, values, strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{stat}\n")


def test_cgroup_bytes__version_2_with_limits_around_the_own_group(tmp_path):
    names = ("memory.max", "memory.current")
    write_group(tmp_path / "job", names, (9000, 4000), "inactive_file 700")
    write_group(tmp_path / "job" / "step", names, ("max", 3000), "inactive_file 0")
    mine = tmp_path / "mine"
    mine.write_text("0::/job/step\n")
    assert memory.cgroup_bytes(tmp_path, mine) == [9000 - 4000 + 700]
    write_group(tmp_path, names, (100, 300), "inactive_file 0")  # above its limit, for a moment
    assert memory.cgroup_bytes(tmp_path, mine) == [5700, 0]


def test_cgroup_bytes__version_1_with_the_hosts_path(tmp_path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    write_group(tmp_path / "memory", names, (8000, 1000), "total_inactive_file 20")
    mine = tmp_path / "mine"
    mine.write_text("7:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n")
    assert memory.cgroup_bytes(tmp_path, mine) == [7020]
    assert memory.cgroup_bytes(tmp_path, tmp_path / "absent") == []


def test_available_bytes__no_more_than_a_container_has(monkeypatch):
    monkeypatch.setattr(memory, "cgroup_bytes", lambda: [4321, 10**18])
    assert memory.available_bytes(torch.device("cpu")) == 4321


def test_available_bytes__of_this_machine():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < memory.available_bytes(torch.device("cpu")) <= total
