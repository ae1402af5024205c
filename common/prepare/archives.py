"""Archives, fetched once, unpacked safely, and put in place only when complete."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from mocodet.common.download import download, file_fault
from mocodet.common.files import atomic_open
from mocodet.common.text import first_few

from .members import DAMAGED, Member, Members, members
from .staging import Staging, device_of, disk_of

GIGABYTE = 10**9
BEGUN = "not all of it is in place\n"

Place = Callable[[str], str | None]


def inside(*prefixes: tuple[str, str]) -> Place:
    """Map members below a folder of the archive to another folder: ``("VOCdevkit/VOC2007", "VOC2007")``.

    Members outside these folders are left out. Either folder may be ``""``, the archive itself or the root.
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
        part: its name for ``--only``.
        place: returns the path of a member below the root of the data sets, or None to leave the member out.
        targets: paths below the root that exist once it is unpacked; most of the data is below the first.
        size: size of the file in bytes; approximate if none is published.
        unpacked: approximate size once unpacked, in bytes.
        url: its address; None if it must be downloaded manually.
        md5: published checksum of the file, hexadecimal; None if there is none.
        exact: whether ``size`` is the published size, which the file must have.
        members: lists the files in it.
        read_with: a package that further steps need to read its files, and that mocodet does not install.
        products: paths below the root that are made from it; if they exist, it is not needed.
        needs: a path below the root that must already exist, and that it does not contain; "" for none.
        otherwise: what to do if that path is missing.
        brought_by: another part of the same data set that provides that path.
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
    members: Members = members
    read_with: str | None = None
    products: tuple[str, ...] = ()
    needs: str = ""
    otherwise: str = ""
    brought_by: str | None = None


def marker(archive: Archive, root: Path) -> Path:
    """Return the file below ``root`` that says what of ``archive`` has been unpacked, or `BEGUN`."""
    return root / ".prepared" / archive.name


def is_unpacked(archive: Archive, root: Path) -> bool:
    """Tell whether ``archive`` has been unpacked below ``root`` and its targets still exist."""
    path = marker(archive, root)
    return path.is_file() and path.read_text() != BEGUN and all((root / place).exists() for place in archive.targets)


def laid_out(archive: Archive, root: Path) -> tuple[str, ...]:
    """Return the targets or products of ``archive`` below ``root`` that exist without this program's unpacking.

    Empty unless all of the ones or the others exist, as files or as non-empty folders.
    """
    if not marker(archive, root).is_file():
        for paths in (archive.targets, archive.products):
            if all((root / path).is_file() or any((root / path).glob("*")) for path in paths):
                return paths
    return ()


def want_again(archive: Archive, root: Path) -> None:
    """Mark ``archive`` to be unpacked, whatever exists below ``root``."""
    with atomic_open(marker(archive, root), "w") as handle:
        handle.write(BEGUN)


def check_space(pending: Sequence[Archive], root: Path, folder: Path) -> None:
    """Check that ``pending`` archives fit on the disks, downloaded into ``folder`` and unpacked below ``root``.

    Raises:
        FileNotFoundError: a link below ``root`` leads nowhere.
        OSError: they do not fit; the message says how much is missing where.
    """
    amounts = [(folder, archive.size) for archive in pending if archive.url and not (folder / archive.name).exists()]
    for archive in pending:
        disks = [disk_of(root, target) for target in archive.targets]
        amounts.append((root / disks[0], archive.unpacked))
    needed: Counter[Path] = Counter()  # by one folder on each disk
    for place, amount in amounts:
        existing = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
        needed[next((known for known in needed if device_of(known) == device_of(existing)), existing)] += amount
    for existing, amount in needed.items():
        free = shutil.disk_usage(existing).free
        if amount > free:
            raise OSError(
                f"{existing} has {free / GIGABYTE:.1f} GB free, but {amount / GIGABYTE:.1f} GB are needed; free"
                " some space, or choose another disk with --root or --archives"
            )


def obtain(archive: Archive, folder: Path) -> Path:
    """Return the archive's verified file in ``folder``; download it if it is missing and has an address.

    Raises:
        ValueError: a manually downloaded file is the wrong one, or damaged.
        OSError: the download failed, or an existing file is not the published one.
    """
    path = folder / archive.name
    size = archive.size if archive.exact else None
    if archive.url is not None:
        return download(archive.url, path, md5=archive.md5, size=size, label=archive.name)
    if fault := file_fault(path, archive.md5, size):
        raise ValueError(f"{path} is not the published file: {fault}; fetch it again")
    return path


def unpack(archive: Archive, path: Path, root: Path) -> None:
    """Unpack ``path`` below ``root``; an interrupted unpacking resumes where it left off.

    Files are written beside their place, first under a temporary name, and moved there when all are complete. So a data
    set never contains part of a file or of an archive. Nothing of a damaged archive is kept.

    Raises:
        ValueError: the archive is damaged, has a member outside ``root``, a link or a device, or lacks expected
            files.
    """
    staging = Staging(root, path)
    try:
        said = _stage(archive, path, staging)
    except ValueError:
        staging.discard()
        raise
    os.sync()  # once: the marker must not reach the disk before the files
    want_again(archive, root)  # from here on, part of it may be in place
    staging.move_into_place()
    with atomic_open(marker(archive, root), "w") as handle:
        handle.write(f"{said}\n")
    print(f"{path.name}: {said}")


def _stage(archive: Archive, path: Path, staging: Staging) -> str:
    """Unpack ``path`` to ``staging``; return the numbers of files in words."""
    written = passed_over = 0
    absent = set(archive.targets)
    try:
        for member in tqdm(archive.members(path), desc=f"unpacking {path.name}", unit=" files", disable=None):
            place = archive.place(_harmless(member.name, path))
            if place is None:
                passed_over += 1
                continue
            _write(member, staging.path(_harmless(place, path)))
            absent = {target for target in absent if not f"{place}/".startswith(f"{target}/")}
            written += 1
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk is full, for example
            raise
        raise ValueError(f"{path} cannot be unpacked: {error}; remove it and fetch it again") from error
    if absent:
        raise ValueError(
            f"{path} does not hold {first_few(sorted(absent))}: it is another archive, or this data set has changed its"
            " layout"
        )
    return f"{written} files unpacked, {passed_over} not needed"


def _write(member: Member, path: Path) -> None:
    """Write one member, under a temporary name until it is complete; one from an earlier attempt stays."""
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with member.open() as source, temporary.open("wb") as handle:
        shutil.copyfileobj(source, handle, 1 << 20)
    temporary.replace(path)


def _harmless(name: str, archive: Path) -> str:
    """Return ``name`` unchanged, unless its file would be outside the target folder.

    Raises:
        ValueError: the name is absolute, or leads upwards.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or not any(parts):
        raise ValueError(f"{name!r} would land outside the folder that {archive.name} is unpacked into")
    return name
