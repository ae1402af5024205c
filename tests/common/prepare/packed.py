"""Small archives, and what comes of them."""

import tarfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from mocodet.common.prepare.archives import Archive, inside


def make_tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return buffer.getvalue()


def make_zip(files: Mapping[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = {"top/data/a.txt": b"a" * 1000, "top/data/b.txt": b"b" * 2000, "top/README": b"read me"}
PLACED = {"mine/a.txt": b"a" * 1000, "mine/b.txt": b"b" * 2000}
KINDS = {
    "a.tar": make_tar(FILES),
    "a.tar.gz": make_tar(FILES, "w:gz"),
    "a.zip": make_zip(FILES),
}


def archive_of(content: bytes, name: str, **values: object) -> Archive:
    return Archive(
        name,
        part="some",
        place=inside(("top/data", "mine")),
        targets=("mine/a.txt",),
        size=len(content),
        unpacked=3000,
        **values,
    )


def below(root: Path) -> dict[str, bytes]:
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {
        name: content
        for name, content in files.items()
        if not name.startswith(".prepared/") and not name.endswith(".lock")
    }
