"""Archives from a server on this machine or from a folder: each is fetched, unpacked and then left alone."""

import hashlib
import shutil
from dataclasses import replace

import pytest

from mocodet.common import download as downloader
from mocodet.common.download import DownloadError
from mocodet.common.prepare.archives import inside
from mocodet.common.prepare.steps import Plan, Step, only_parts, prepare
from tests.common.prepare.good import KINDS, PLACED, archive_of, below
from tests.servers import serve


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(downloader, "FIRST_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(**KINDS) as site:
        yield site


def plan_of(site, **values: object) -> Plan:
    made = [
        archive_of(content, name, url=f"{site.url}/{name}", md5=hashlib.md5(content).hexdigest(), **values)
        for name, content in KINDS.items()
    ]
    places = {name: f"mine{number}" for number, name in enumerate(KINDS)}
    return Plan(
        [
            replace(each, place=inside(("top/data", places[each.name])), targets=(places[each.name],), part=each.name)
            for each in made
        ]
    )


def test_prepare__downloads_unpacks_and_does_nothing_the_second_time(site, tmp_path, capsys):
    root, folder = tmp_path / "root", tmp_path / "archives"
    plan = plan_of(site)
    prepare(plan, root, folder)
    assert {name.partition("/")[0] for name in below(root)} == {"mine0", "mine1", "mine2"}
    assert [path for path, _ in site.requests] == [f"/{name}" for name in KINDS]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    shutil.rmtree(folder)  # archives are not needed any more
    capsys.readouterr()
    prepare(plan, root, folder)
    assert capsys.readouterr().out == "everything had been done before\n"
    assert len(site.requests) == len(KINDS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_prepare__dry_run_touches_nothing(site, tmp_path, capsys):
    root = tmp_path / "root"
    prepare(plan_of(site), root, root / "archives", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [f"to do: download {site.url}/{name}" for name in KINDS]
    assert not root.exists()
    assert site.requests == []


def test_prepare__parts_and_steps(site, tmp_path, capsys):
    root = tmp_path / "root"
    done = root / "step"
    step = Step("a.zip", "write a file", done.exists, lambda: done.write_text(""))
    plan = Plan(plan_of(site).archives, further=[step])
    prepare(only_parts(plan, ["a.tar"]), root, root / "archives")
    assert not done.exists()
    prepare(only_parts(plan, ["a.zip"]), root, root / "archives")
    assert done.exists()
    assert [path for path, _ in site.requests] == ["/a.tar", "/a.zip"]
    assert only_parts(plan, []) is plan
    with pytest.raises(ValueError, match=r"--only b: the parts are a\.tar, a\.tar\.gz, a\.zip"):
        only_parts(plan, ["b"])


def test_prepare__wrong_checksum(site, tmp_path):
    plan = Plan([replace(each, md5="0" * 32) for each in plan_of(site).archives])
    with pytest.raises(DownloadError, match=r"expected 0{32}"):
        prepare(plan, tmp_path, tmp_path / "archives")
    assert below(tmp_path / "archives") == {}


def test_prepare__no_published_checksum_is_said(site, tmp_path, capsys):
    prepare(Plan([replace(plan_of(site).archives[0], md5=None, exact=False)]), tmp_path, tmp_path / "archives")
    assert "no checksum of it is published, only its size is compared" in capsys.readouterr().out


def test_prepare__archives_fetched_by_hand(tmp_path):
    root, folder = tmp_path / "root", tmp_path / "fetched"
    archive = archive_of(KINDS["a.zip"], "a.zip", md5=hashlib.md5(KINDS["a.zip"]).hexdigest())
    plan = Plan([archive, replace(archive, name="b.zip")], by_hand="log in at example.org")
    with pytest.raises(FileNotFoundError, match=r"lacks a\.zip, b\.zip, which must be fetched by hand: log in at"):
        prepare(plan, root, folder)
    folder.mkdir()
    for name in ("a.zip", "b.zip"):
        (folder / name).write_bytes(KINDS["a.zip"])
    prepare(plan, root, folder)
    assert below(root) == PLACED
    assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "b.zip"]


def test_prepare__package_that_reads_it_is_missing(site, tmp_path):
    plan = Plan([replace(plan_of(site).archives[0], read_with="no_such_package")])
    with pytest.raises(ImportError, match=r"a\.tar is read with no_such_package: pip install no_such_package"):
        prepare(plan, tmp_path, tmp_path)
    assert site.requests == []
