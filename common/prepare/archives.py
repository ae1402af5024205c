"""Archives: fetched once, unpacked safely, and in place only when they are whole."""

import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from mocodet.common.download import download, md5_of
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

# Damaged archives make the two readers raise these; EOFError and zlib's error come from compressed streams.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError)
GIGABYTE = 10**9


@dataclass(frozen=True)
class Member:
    """One file of an archive: its name there, its size in bytes, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


Members = Callable[[Path], Iterator[Member]]
Place = Callable[[str], str | None]


def inside(*prefixes: tuple[str, str]) -> Place:
    """Place the members below a folder of the archive below another: ``("VOCdevkit/VOC2007", "VOC2007")``.

    Members below none of the folders are left out. Either folder may be ``""``, the archive itself or the root.
    """

    def place(name: str) -> str | None:
        for source, target in prefixes:
            if not source or name == source or name.startswith(f"{source}/"):
                return str(PurePosixPath(target) / name[len(source) :].lstrip("/"))
        return None

    return place


@dataclass(frozen=True)
class Archive:
    """One file to fetch and unpack.

    Attributes:
        name: file name.
        part: what ``--only`` calls it.
        place: gives the path of each member below the root of the data sets, or None to leave the member out.
        targets: paths below the root that are there once it is unpacked.
        size: bytes of the file; of one without a published size, about that.
        unpacked: bytes that it takes on the disk once unpacked, about.
        url: where it is; None if it must be fetched by hand.
        md5: published checksum of the file, hexadecimal; None if there is none.
        exact: whether ``size`` is the published size, which the file must have.
        members: lists the files in it.
        read_with: a package that mocodet does not install and that further steps read its files with.
    """

    name: str
    part: str
    place: Place
    targets: tuple[str, ...]
    size: int
    unpacked: int
    url: str | None = None
    md5: str | None = None
    exact: bool = True
    members: Members | None = None
    read_with: str | None = None


def marker(archive: Archive, root: Path) -> Path:
    """Return the file below ``root`` that says that ``archive`` has been unpacked whole."""
    return root / ".prepared" / archive.name


def is_unpacked(archive: Archive, root: Path) -> bool:
    """Tell whether ``archive`` has been unpacked below ``root`` and what came of it is still there."""
    return marker(archive, root).is_file() and all((root / target).exists() for target in archive.targets)


def require_space(archives: Sequence[Archive], root: Path, folder: Path) -> None:
    """Make sure that what is still to be downloaded into ``folder`` and unpacked below ``root`` fits on the disk.

    Raises:
        OSError: it does not; the message says how much is missing where.
    """
    missing = [archive for archive in archives if not is_unpacked(archive, root)]
    needed: dict[int, tuple[Path, int]] = {}
    downloads = sum(archive.size for archive in missing if archive.url and not (folder / archive.name).exists())
    for place, amount in ((folder, downloads), (root, sum(archive.unpacked for archive in missing))):
        existing = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
        device = existing.stat().st_dev
        needed[device] = (existing, needed.get(device, (existing, 0))[1] + amount)
    for existing, amount in needed.values():
        free = shutil.disk_usage(existing).free
        if amount > free:
            raise OSError(
                f"{existing} has {free / GIGABYTE:.1f} GB free, but {amount / GIGABYTE:.1f} GB are needed; make"
                " room, or choose another disk with --root or --archives"
            )


def obtain(archive: Archive, folder: Path) -> Path:
    """Return the archive's file in ``folder``, verified; downloaded, if it can be and is not there.

    Raises:
        ValueError: a file that was fetched by hand is another one, or damaged.
        OSError: the download failed, or what is there is not what would be downloaded.
    """
    path = folder / archive.name
    size = archive.size if archive.exact else None
    if archive.url is not None:
        return download(archive.url, path, md5=archive.md5, size=size, label=archive.name)
    if size not in (None, found := path.stat().st_size):
        raise ValueError(f"{path} has {found} bytes, but the published file has {size}; fetch it again")
    if archive.md5 is not None and (found := md5_of(path)) != archive.md5:
        raise ValueError(f"{path} has the MD5 sum {found}, but the published file has {archive.md5}; fetch it again")
    return path


def unpack(archive: Archive, path: Path, root: Path) -> None:
    """Unpack ``path`` below ``root``; an interrupted unpacking goes on where it stopped.

    Files are written to a folder beside their place, each under a temporary name first, and moved into place when all
    of them are there. So neither half a file nor half an archive stands where a data set is looked for.

    Raises:
        ValueError: the archive is damaged, has a member that would land outside ``root``, a link or a device, or lacks
            what it should bring.
    """
    staging = root / ".unpacking" / archive.name
    written = passed_over = 0
    with _damage_told(path):
        for member in tqdm(
            (archive.members or members)(path), desc=f"unpacking {path.name}", unit=" files", disable=None
        ):
            target = archive.place(_harmless(member.name, path))
            if target is None:
                passed_over += 1
                continue
            _write(member, staging / _harmless(target, path))
            written += 1
    if absent := [target for target in archive.targets if not (staging / target).exists()]:
        raise ValueError(
            f"{path} does not hold {first_few(absent)}: it is another archive, or this data set has changed its layout"
        )
    os.sync()  # once: the marker must not reach the disk before the files
    move_tree(staging, root)
    with atomic_open(marker(archive, root), "w") as handle:
        handle.write(f"{written} files unpacked, {passed_over} not needed\n")
    print(f"{path.name}: {written} files unpacked, {passed_over} not needed")


def members(path: Path) -> Iterator[Member]:
    """List the files of a zip or tar archive, in their order there.

    Raises:
        ValueError: it has a link or a device.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                # The upper half of the attributes is the file's mode under Unix; 0o12 is a symbolic link.
                if info.external_attr >> 28 == 0o12:
                    raise ValueError(f"{info.filename!r} is a link")
                if not info.is_dir():
                    yield Member(info.filename, info.file_size, lambda info=info: archive.open(info))
    else:
        with path.open("rb") as handle:
            yield from tar_members(handle)


def tar_members(handle: IO[bytes]) -> Iterator[Member]:
    """List the files of an open tar archive, plain or compressed.

    Raises:
        ValueError: it has a link or a device.
        tarfile.ReadError: it is truncated.
    """
    with tarfile.open(fileobj=handle) as archive:
        for info in archive:
            if not (info.isfile() or info.isdir()):
                raise ValueError(f"{info.name!r} is a link or a device")
            if info.isfile():
                yield Member(info.name, info.size, lambda info=info: archive.extractfile(info))
        # tarfile takes any end for the end; a whole archive ends with a block of zeros.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data")


def tar_of_tars(path: Path) -> Iterator[Member]:
    """List the files of the tar archives in a tar archive, each below a folder of its archive's name."""
    for inner in members(path):
        with inner.open() as handle:
            for member in tar_members(handle):
                name = f"{PurePosixPath(inner.name).stem}/{member.name}"
                yield Member(name, member.size, member.open)


def move_tree(source: Path, target: Path) -> None:
    """Move the content of folder ``source`` into ``target``, filling folders and replacing files that are there."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            move_tree(entry, place)
        else:
            entry.replace(place)
    source.rmdir()


def _write(member: Member, path: Path) -> None:
    """Write one member, under a temporary name until it is whole; one that is there from an earlier try stays."""
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with member.open() as source, temporary.open("wb") as handle:
        shutil.copyfileobj(source, handle, 1 << 20)
    temporary.replace(path)


def _harmless(name: str, archive: Path) -> str:
    """Return ``name`` as it is unless a file of that name could land outside the folder that it is unpacked into.

    Raises:
        ValueError: it is absolute or climbs.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or not any(parts):
        raise ValueError(f"{name!r} would land outside the folder that {archive.name} is unpacked into")
    return name


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk is full, for example
            raise
        raise ValueError(f"{path} cannot be unpacked: {error}; remove it and fetch it again") from error
