import threading
import time
from pathlib import Path

import pytest

from mocodet.pretrain.data import listing, listing_cache
from mocodet.pretrain.data.listing import search, stamp_of
from mocodet.pretrain.data.listing_cache import list_images


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Six images in three folders, treated as many old ones."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listing_cache, "SMALLEST", 3)
    monkeypatch.setattr(listing_cache, "STEP", -60_000_000_000)
    for name in ("a/0.jpg", "a/1.jpg", "a/b/2.jpg", "a/b/3.jpg", "c/4.jpg", "c/5.jpg", "c/notes.txt"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    return tmp_path / "root"


@pytest.fixture
def searches(monkeypatch) -> list[object]:
    """The folders that were searched so far, not read from the cache."""
    seen: list[object] = []

    def watched(root):
        seen.append(root)
        yield from search(root)

    monkeypatch.setattr(listing_cache, "search", watched)
    return seen


def cached(tree: Path) -> list[Path]:
    return list((tree.parent / "cache").rglob("*.json"))


def test_list_images__searches_once(tree, searches):
    expected = list(search(tree))
    assert list_images(tree) == list_images(str(tree)) == expected
    assert searches == [tree]


def add(tree: Path) -> None:
    (tree / "a" / "b" / "new.jpg").touch()


def remove(tree: Path) -> None:
    (tree / "c" / "notes.txt").unlink()


def rename(tree: Path) -> None:
    (tree / "a" / "0.jpg").rename(tree / "a" / "7.jpg")


def exchange(tree: Path) -> None:
    (tree / "c").rename(tree / "d")
    (tree / "d").rename(tree / "c")
    (tree / "a" / "b").rename(tree.parent / "b")
    (tree / "a" / "b").mkdir()


@pytest.mark.parametrize("change", [add, remove, rename, exchange])
def test_list_images__a_change_is_seen(tree, searches, change):
    before = list_images(tree)
    change(tree)
    after = list_images(tree)
    assert after == list(search(tree))
    assert [one[2:] for one in after] != [one[2:] for one in before]
    assert list_images(tree) == after
    assert len(searches) == 2  # the new listing is kept too


@pytest.mark.parametrize("damage", [b"", b"\n", b"00000000\n{}", b"\xff\xfe", "cut", "name", "format"])
def test_list_images__a_damaged_file_is_made_anew(tree, searches, damage, monkeypatch):
    expected = list_images(tree)
    (file,) = cached(tree)
    content = file.read_bytes()
    if damage == "format":
        monkeypatch.setattr(listing_cache, "FORMAT", listing_cache.FORMAT + 1)
    else:
        file.write_bytes({"cut": content[:-5], "name": content.replace(b"4.jpg", b"6.jpg")}.get(damage, damage))
    assert list_images(tree) == expected
    assert list_images(tree) == expected
    assert len(searches) == 2


def test_list_images__what_may_not_be_kept(tree, searches, monkeypatch):
    monkeypatch.setattr(listing_cache, "STEP", 60_000_000_000)  # the folder has changed just now
    list_images(tree)
    monkeypatch.setattr(listing_cache, "SMALLEST", 8)
    monkeypatch.setattr(listing_cache, "STEP", 0)
    list_images(tree)
    assert cached(tree) == []
    monkeypatch.setattr(listing_cache, "SMALLEST", 3)
    monkeypatch.setenv("FVCORE_CACHE", str(tree / "a" / "0.jpg"))  # not a folder: the cache cannot be written
    assert list_images(tree) == list(search(tree))
    assert len(searches) == 3


def test_list_images__a_folder_that_appears_behind_a_link_is_seen(tree, searches):
    (tree / "d").symlink_to(tree.parent / "mounted")
    (tree / "e.jpg").symlink_to(tree / "a" / "0.jpg")
    before = list_images(tree)
    assert cached(tree) == []
    (tree.parent / "mounted").mkdir()
    (tree.parent / "mounted" / "6.jpg").touch()
    after = list_images(tree)
    assert sum(len(one.images) for one in after) == sum(len(one.images) for one in before) + 1
    assert len(cached(tree)) == 1, "now that every link leads somewhere"


def test_list_images__folders_without_a_time_are_not_kept(tree, monkeypatch):
    monkeypatch.setattr(listing, "stamp_of", lambda folder: (*stamp_of(folder)[:2], 0, 0))
    list_images(tree)
    assert cached(tree) == []


def test_list_images__processes_that_begin_together_search_once(tree, searches, monkeypatch):
    whole = []  # the searches that were completed

    def slowly(root):
        for one in search(root):
            yield one
            time.sleep(0.1)
        whole.append(root)

    monkeypatch.setattr(listing_cache, "search", slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(list_images(tree))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(search(tree))] * 3
    assert len(whole) == 1
