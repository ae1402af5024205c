import os
from pathlib import Path

import pytest

from mocodet.common.formats.image import image_suffixes
from mocodet.pretrain.data.folders import ImageFolder
from mocodet.pretrain.data.listing import search


def walked(root: Path) -> tuple[list[str], int]:
    """The images' paths and the number of other files, by ``os.walk``."""
    images, others, entered = [], 0, set()
    for folder, below, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        below[:] = [] if here in entered else sorted(name for name in below if not name.startswith("."))
        for name in [] if here in entered else names:
            if name.startswith("."):
                continue
            if name.lower().endswith(image_suffixes()):
                images.append(str(Path(folder, name)))
            else:
                others += 1
        entered.add(here)
    return sorted(images), others


@pytest.fixture
def tree(tmp_path):
    for name in ("a/x.jpg", "a/b/y.PNG", "a-b/z.jpeg", "a.png", "a/b.webp", "a/notes.txt", ".hidden/u.png", "a/.v.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / os.fsdecode(b"a/\xff.jpg")).touch()
    (tmp_path / "empty.jpg").mkdir()  # a folder
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a-b")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "linked.jpg").symlink_to("a/x.jpg")
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_search__finds_what_walking_finds(tree, inside, monkeypatch):
    monkeypatch.chdir(tree)
    root = Path() if inside else tree
    found = list(search(root))
    images, others = walked(root)
    assert sorted(path for listing in found for path in listing.paths(root)) == images == ImageFolder(root).paths
    assert sum(listing.others for listing in found) == others == ImageFolder(root).passed_over == 1
    assert len(images) == 8


def test_search__a_folder_that_cannot_be_searched(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:  # rmtree of tmp_path gives descriptors
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(PermissionError, match="b"):
            list(search(tree))
