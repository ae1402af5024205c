"""The steps of a preparation, carried out in order; each knows whether it is done."""

import importlib.util
import math
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mocodet.common.locks import exclusive
from mocodet.common.text import first_few

from .archives import GIGABYTE, Archive, check_space, is_unpacked, laid_out, obtain, unpack, want_again


@dataclass(frozen=True)
class Step:
    """A step to carry out once: ``what`` it does, in one line; whether it is ``done``; how to ``run`` it.

    ``forget`` undoes it, so that it runs again. ``part`` is its name for ``--only``, as in `Archive`.
    """

    part: str
    what: str
    done: Callable[[], bool]
    run: Callable[[], None]
    forget: Callable[[], None]


def making(part: str, what: str, products: Callable[[], Collection[Path]], run: Callable[[], None]) -> Step:
    """Return the step that makes ``products``, files and folders; ``forget`` removes them, in order."""

    def done() -> bool:
        return bool(products()) and all(path.exists() for path in products())

    def forget() -> None:
        for path in products():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    return Step(part, what, done, run, forget)


@dataclass(frozen=True)
class Plan:
    """How a data set is prepared.

    Attributes:
        archives: archives to fetch and unpack.
        by_hand: how to get the archives that have no address.
        further: steps after unpacking.
    """

    archives: Sequence[Archive]
    by_hand: str = ""
    further: Sequence[Step] = ()


def only_parts(plan: Plan, parts: Sequence[str]) -> Plan:
    """Keep the archives and steps of ``parts``; all if ``parts`` is empty.

    Raises:
        ValueError: there is no such part.
    """
    known = list(dict.fromkeys(archive.part for archive in plan.archives))
    if unknown := [part for part in parts if part not in known]:
        raise ValueError(f"--only {unknown[0]}: the parts are {', '.join(known)}")
    if not parts:
        return plan
    return replace(
        plan,
        archives=[archive for archive in plan.archives if archive.part in parts],
        further=[step for step in plan.further if step.part in parts],
    )


def prepare(plan: Plan, root: Path, folder: Path, *, dry_run: bool = False, again: bool = False) -> None:
    """Carry out every step of ``plan`` that is not done; two processes at once take turns.

    Files in an archive's place that this program did not unpack stay unchanged.

    Args:
        plan: the steps.
        root: the folder of the data sets.
        folder: folder of the archives, and of downloads.
        dry_run: only list what would be done.
        again: repeat completed steps, too.

    Raises:
        FileNotFoundError: archives that must be downloaded manually are not in ``folder`` (the message names all), or
            another data set that this one needs is missing.
        ImportError: a package that reads the files is not installed.
        ValueError: an archive is damaged.
        OSError: a download failed, or the disk is full.
    """
    _check_needs(plan.archives, root)
    archives = [archive for archive in plan.archives if again or not _left_as_it_is(archive, root)]
    steps = [*(_unpacking(archive, root, folder) for archive in archives), *plan.further]
    if dry_run:
        for step in steps:
            print(f"{'done already' if step.done() and not again else 'to do'}: {step.what}")
        return
    pending = [archive for archive in archives if again or not is_unpacked(archive, root)]
    _check_obtainable(pending, folder, plan.by_hand)
    check_space(pending, root, folder)
    with exclusive(root / ".prepared" / "prepare", patience=math.inf):
        todo = [step for step in steps if again or not step.done()]
        for step in todo:
            print(step.what, flush=True)
            if again:
                step.forget()
            step.run()
    if not todo and steps:
        print("everything was done before")
    if sizes := [(folder / archive.name).stat().st_size for archive in archives if (folder / archive.name).exists()]:
        print(f"the archives in {folder} ({sum(sizes) / GIGABYTE:.1f} GB) are no longer needed")


def _left_as_it_is(archive: Archive, root: Path) -> bool:
    """Tell whether the data of ``archive`` exist below ``root`` without this program; if so, print that."""
    there = laid_out(archive, root)
    if there:
        print(
            f"exists already, and is left unchanged: {first_few([str(root / path) for path in there])};"
            f" --check verifies it, --again unpacks {archive.name} over it"
        )
    return bool(there)


def _unpacking(archive: Archive, root: Path, folder: Path) -> Step:
    size = f"{archive.size / GIGABYTE:.2f} GB"
    fetched = f"download {archive.url} ({size})" if archive.url else f"take {folder / archive.name} ({size})"
    unverified = "" if archive.md5 else "; no checksum of it is published, only its size is compared"
    return Step(
        archive.part,
        f"{fetched}, unpack it to {first_few([str(root / target) for target in archive.targets])}{unverified}",
        done=partial(is_unpacked, archive, root),
        run=lambda: unpack(archive, obtain(archive, folder), root),
        forget=partial(want_again, archive, root),
    )


def _check_needs(archives: Sequence[Archive], root: Path) -> None:
    """Raise ``FileNotFoundError`` now rather than after hours of downloading."""
    parts = {archive.part for archive in archives}
    for archive in archives:
        if archive.needs and archive.brought_by not in parts and not (root / archive.needs).exists():
            raise FileNotFoundError(
                f"{archive.part} needs {root / archive.needs}, which is missing; {archive.otherwise}"
            )


def _check_obtainable(pending: Sequence[Archive], folder: Path, by_hand: str) -> None:
    """Raise ``ImportError`` or ``FileNotFoundError`` if an archive cannot be read or must be fetched first."""
    for archive in pending:
        package = archive.read_with
        if package and importlib.util.find_spec(package) is None:
            raise ImportError(
                f"{package} is needed to read {archive.name}: pip install {package}, or prepare other parts with --only"
            )
    missing = [archive.name for archive in pending if archive.url is None and not (folder / archive.name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {first_few(missing)}, which must be downloaded manually: {by_hand}; put them there, or"
            " name the folder that holds them with --archives, and run this again"
        )
