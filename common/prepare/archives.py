"""Archives that are downloaded once, unpacked safely, and moved into place only when complete."""

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
    """Map members below a folder in the archive to another folder, as in ``("VOCdevkit/VOC2007", "VOC2007")``.

    Members outside these folders are skipped. Either folder may be ``""``, which means the archive itself or the root.
    """

    def place(name: str) -> str | None:
        for source, target in prefixes:
            if not source or name == source or name.startswith(f"{source}/"):
                return str(PurePosixPath(target) / name[len(source) :].lstrip("/"))
        return None

    return place


@dataclass(frozen=True)
class Archive:
    """A file to download and unpack.

    Attributes:
        name: file name.
        part: name for ``--only``.
        place: returns a member's path relative to the root of the data sets, or None to skip the member.
        targets: paths relative to the root that exist once the archive is unpacked; most of the data is below the
            first.
        size: file size in bytes; approximate if none is published.
        unpacked: approximate size after unpacking, in bytes.
        url: download URL; None if the file must be downloaded manually.
        md5: published checksum of the file, in hexadecimal; None if there is none.
        exact: whether ``size`` is the published size, which the file must have.
        members: lists the files in the archive.
        read_with: package that later steps need to read the files and that mocodet does not install.
        products: paths relative to the root that are created from the archive; if they exist, it is not needed.
        needs: path relative to the root that must already exist and that the archive does not contain; "" for none.
        otherwise: what to do if the path in ``needs`` is missing.
        brought_by: another part of the same data set that provides the path in ``needs``.
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
    """Return the file below ``root`` that records how much of ``archive`` has been unpacked, or contains `BEGUN`."""
    return root / ".prepared" / archive.name


def is_unpacked(archive: Archive, root: Path) -> bool:
    """Return whether ``archive`` has been unpacked below ``root`` and its targets still exist."""
    path = marker(archive, root)
    return path.is_file() and path.read_text() != BEGUN and all((root / place).exists() for place in archive.targets)


def laid_out(archive: Archive, root: Path) -> tuple[str, ...]:
    """Return the targets or products of ``archive`` that exist below ``root`` but were not unpacked by this program.

    The result is empty unless all targets or all products exist, as files or as non-empty folders.
    """
    if not marker(archive, root).is_file():
        for paths in (archive.targets, archive.products):
            if all((root / path).is_file() or any((root / path).glob("*")) for path in paths):
                return paths
    return ()


def want_again(archive: Archive, root: Path) -> None:
    """Mark ``archive`` to be unpacked, regardless of what exists below ``root``."""
    with atomic_open(marker(archive, root), "w") as handle:
        handle.write(BEGUN)


def check_space(pending: Sequence[Archive], root: Path, folder: Path) -> None:
    """Check that ``pending`` archives fit on the disks when downloaded to ``folder`` and unpacked below ``root``.

    Raises:
        FileNotFoundError: the target of a link below ``root`` does not exist.
        OSError: the disk space is insufficient; the message reports the free and the required space.
    """
    amounts = [(folder, archive.size) for archive in pending if archive.url and not (folder / archive.name).exists()]
    for archive in pending:
        disks = [disk_of(root, target) for target in archive.targets]
        amounts.append((root / disks[0], archive.unpacked))
    needed: Counter[Path] = Counter()  # keyed by one folder on each disk
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
    """Return the verified archive file in ``folder``, downloading it if it is missing and has a URL.

    Raises:
        ValueError: a manually downloaded file is damaged or is not the published file.
        OSError: the download failed, or an existing file is not the published file.
    """
    path = folder / archive.name
    size = archive.size if archive.exact else None
    if archive.url is not None:
        return download(archive.url, path, md5=archive.md5, size=size, label=archive.name)
    if fault := file_fault(path, archive.md5, size):
        raise ValueError(f"{path} is not the published file: {fault}; download it again")
    return path


def unpack(archive: Archive, path: Path, root: Path) -> None:
    """Unpack ``path`` below ``root``, resuming a previous unpacking that was interrupted.

    Files are first written under a temporary name next to their destination, and moved there when all of them are
    complete. A data set therefore never contains part of a file or of an archive. If the archive is damaged, none of
    its files are kept.

    Raises:
        ValueError: the archive is damaged, contains a member outside ``root``, a link or a device, or lacks expected
            files.
    """
    staging = Staging(root, path)
    try:
        said = _stage(archive, path, staging)
    except ValueError:
        staging.discard()
        raise
    os.sync()  # once, because the marker must not reach the disk before the files
    want_again(archive, root)  # from here on, some of its files may be in place
    staging.move_into_place()
    with atomic_open(marker(archive, root), "w") as handle:
        handle.write(f"{said}\n")
    print(f"{path.name}: {said}")


def _stage(archive: Archive, path: Path, staging: Staging) -> str:
    """Unpack ``path`` to ``staging``; return a summary with the numbers of files."""
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
        if isinstance(error, OSError) and error.errno is not None:  # for example, the disk is full
            raise
        raise ValueError(f"{path} cannot be unpacked: {error}; remove it and download it again") from error
    if absent:
        raise ValueError(
            f"{path} does not contain {first_few(sorted(absent))}; either it is a different archive, or the layout of"
            " the data set has changed"
        )
    return f"{written} files unpacked, {passed_over} not needed"


def _write(member: Member, path: Path) -> None:
    """Write one member under a temporary name and rename it when complete; keep a file from an earlier attempt."""
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with member.open() as source, temporary.open("wb") as handle:
        shutil.copyfileobj(source, handle, 1 << 20)
    temporary.replace(path)


def _harmless(name: str, archive: Path) -> str:
    """Return ``name`` unchanged if its file would be inside the target folder.

    Raises:
        ValueError: the name is absolute, or refers to a parent folder.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or not any(parts):
        raise ValueError(f"{name!r} would be written outside the folder to which {archive.name} is unpacked")
    return name
