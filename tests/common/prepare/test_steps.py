"""Archives from a server on this machine or from a folder: each is fetched, unpacked and then left alone."""

import hashlib
import shutil
from dataclasses import replace

import pytest

from mocodet.common import download as downloader
from mocodet.common.download import DownloadError
from mocodet.common.prepare.archives import inside
from mocodet.common.prepare.steps import Plan, making, only_parts, prepare
from tests.common.prepare.packed import KINDS, PLACED, archive_of, below
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
    assert capsys.readouterr().out == "all steps were already done\n"
    assert len(site.requests) == len(KINDS)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_prepare__dry_run_touches_nothing(site, tmp_path, capsys):
    root = tmp_path / "root"
    prepare(plan_of(site), root, root / "archives", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [f"to do: download {site.url}/{name}" for name in KINDS]
    assert not root.exists()
    assert site.requests == []


def test_prepare__again_takes_the_steps_of_the_parts_anew(site, tmp_path, capsys):
    root = tmp_path / "root"
    made = root / "step"
    step = making("a.zip", "write a file", lambda: [made], lambda: made.write_text("new"))
    plan = Plan(plan_of(site).archives, further=[step])
    prepare(plan, root, root / "archives")
    for place in ("mine0/a.txt", "mine2/a.txt", "step"):
        (root / place).write_text("spoilt")
    (root / "mine2/b.txt").unlink()
    prepare(plan, root, root / "archives")
    assert (root / "mine2/a.txt").read_text() == "spoilt"  # it counts as done
    capsys.readouterr()
    prepare(only_parts(plan, ["a.zip"]), root, root / "archives", dry_run=True, again=True)
    assert [line[:6] for line in capsys.readouterr().out.splitlines()] == ["to do:"] * 2
    prepare(only_parts(plan, ["a.zip"]), root, root / "archives", again=True)
    assert (root / "mine2/a.txt").read_bytes() == PLACED["mine/a.txt"]
    assert (root / "mine2/b.txt").read_bytes() == PLACED["mine/b.txt"]
    assert made.read_text() == "new"
    assert (root / "mine0/a.txt").read_text() == "spoilt"  # of another part


def test_prepare__again_interrupted_goes_on_without_it(site, tmp_path):
    root = tmp_path / "root"
    plan = only_parts(plan_of(site), ["a.tar"])
    prepare(plan, root, root / "archives")
    shutil.rmtree(root / "archives")
    site.status = 404
    with pytest.raises(DownloadError):
        prepare(plan, root, root / "archives", again=True)
    (root / "mine0/a.txt").write_text("spoilt")
    site.status = None
    prepare(plan, root, root / "archives")
    assert (root / "mine0/a.txt").read_bytes() == PLACED["mine/a.txt"]


def test_prepare__what_was_laid_out_in_another_way_is_left_as_it_is(site, tmp_path, capsys):
    root = tmp_path / "root"
    plan = only_parts(plan_of(site), ["a.tar", "a.zip"])
    for name in ("mine0", "mine2"):
        (root / name).mkdir(parents=True)
    (root / "mine0/a.txt").write_text("the user's")  # mine2 is empty
    prepare(plan, root, root / "archives", dry_run=True)
    said = f"already exists and is left unchanged: {root / 'mine0'}; use --check to verify it, or"
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{said} --again to unpack a.tar over it"
    assert second.startswith(f"to do: download {site.url}/a.zip")
    prepare(plan, root, root / "archives")
    assert capsys.readouterr().out.splitlines()[0] == first
    assert [path for path, _ in site.requests] == ["/a.zip"]
    assert below(root / "mine0") == {"a.txt": b"the user's"}
    prepare(plan, root, root / "archives", again=True)
    assert below(root / "mine0") == {name.removeprefix("mine/"): content for name, content in PLACED.items()}


def test_prepare__needs(tmp_path):
    more = archive_of(KINDS["a.zip"], "a.zip")
    some = replace(more, needs="other", otherwise="prepare other first", brought_by="more")
    plan = Plan([some, replace(more, part="more")], "by hand")
    with pytest.raises(FileNotFoundError, match=r"some needs .*other, which is missing; prepare other first"):
        prepare(only_parts(plan, ["some"]), tmp_path, tmp_path, dry_run=True)
    prepare(only_parts(plan, ["more"]), tmp_path, tmp_path, dry_run=True)
    prepare(plan, tmp_path, tmp_path, dry_run=True)
    (tmp_path / "other").mkdir()
    prepare(only_parts(plan, ["some"]), tmp_path, tmp_path, dry_run=True)


def test_prepare__parts_and_steps(site, tmp_path, capsys):
    root = tmp_path / "root"
    done = root / "step"
    step = making("a.zip", "write a file", lambda: [done], lambda: done.write_text(""))
    plan = Plan(plan_of(site).archives, further=[step])
    prepare(only_parts(plan, ["a.tar"]), root, root / "archives")
    assert not done.exists()
    prepare(only_parts(plan, ["a.zip"]), root, root / "archives")
    assert done.exists()
    assert [path for path, _ in site.requests] == ["/a.tar", "/a.zip"]
    assert only_parts(plan, []) is plan
    with pytest.raises(ValueError, match=r"--only b: unknown part; expected one of a\.tar, a\.tar\.gz, a\.zip"):
        only_parts(plan, ["b"])


def test_prepare__wrong_checksum(site, tmp_path):
    plan = Plan([replace(each, md5="0" * 32) for each in plan_of(site).archives])
    with pytest.raises(DownloadError, match=r"expected 0{32}"):
        prepare(plan, tmp_path, tmp_path / "archives")
    assert below(tmp_path / "archives") == {}


def test_prepare__no_published_checksum_is_said(site, tmp_path, capsys):
    for exact, compared in ((True, "the size is"), (False, "the checksums in the archive are")):
        folder = tmp_path / str(exact)
        prepare(Plan([replace(plan_of(site).archives[0], md5=None, exact=exact)]), folder, folder / "archives")
        assert f"no checksum is published, so only {compared} compared" in capsys.readouterr().out


def test_prepare__archives_fetched_by_hand(tmp_path):
    root, folder = tmp_path / "root", tmp_path / "fetched"
    archive = archive_of(KINDS["a.zip"], "a.zip", md5=hashlib.md5(KINDS["a.zip"]).hexdigest())
    plan = Plan([archive, replace(archive, name="b.zip")], by_hand="log in at example.org")
    with pytest.raises(FileNotFoundError, match=r"lacks a\.zip, b\.zip, which must be downloaded manually: log in at"):
        prepare(plan, root, folder)
    folder.mkdir()
    for name in ("a.zip", "b.zip"):
        (folder / name).write_bytes(KINDS["a.zip"])
    prepare(plan, root, folder)
    assert below(root) == PLACED
    assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "b.zip"]


def test_prepare__package_that_reads_it_is_missing(site, tmp_path):
    plan = Plan([replace(plan_of(site).archives[0], read_with="no_such_package")])
    with pytest.raises(
        ImportError, match=r"reading a\.tar requires the no_such_package package, .* pip install no_such_package"
    ):
        prepare(plan, tmp_path, tmp_path)
    assert site.requests == []
