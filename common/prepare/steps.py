"""The steps of a preparation, executed in order; each step can determine whether it is done."""

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
    """A step that is executed once: ``what`` it does, in one line; whether it is ``done``; and how to ``run`` it.

    ``forget`` undoes the step so that it runs again. ``part`` is its name for ``--only``, as in `Archive`.
    """

    part: str
    what: str
    done: Callable[[], bool]
    run: Callable[[], None]
    forget: Callable[[], None]


def making(part: str, what: str, products: Callable[[], Collection[Path]], run: Callable[[], None]) -> Step:
    """Return a step that creates ``products``, files and folders, which its ``forget`` removes in order."""

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
    """How to prepare a data set.

    Attributes:
        archives: archives to download and unpack.
        by_hand: how to obtain the archives that have no URL.
        further: steps after unpacking.
    """

    archives: Sequence[Archive]
    by_hand: str = ""
    further: Sequence[Step] = ()


def only_parts(plan: Plan, parts: Sequence[str]) -> Plan:
    """Keep only the archives and steps of ``parts``, or all of them if ``parts`` is empty.

    Raises:
        ValueError: a part does not exist.
    """
    known = list(dict.fromkeys(archive.part for archive in plan.archives))
    if unknown := [part for part in parts if part not in known]:
        raise ValueError(f"--only {unknown[0]}: unknown part; expected one of {', '.join(known)}")
    if not parts:
        return plan
    return replace(
        plan,
        archives=[archive for archive in plan.archives if archive.part in parts],
        further=[step for step in plan.further if step.part in parts],
    )


def prepare(plan: Plan, root: Path, folder: Path, *, dry_run: bool = False, again: bool = False) -> None:
    """Execute all steps of ``plan`` that are not done; concurrent processes take turns.

    Existing files that this program did not unpack are left unchanged.

    Args:
        plan: the steps.
        root: folder that contains the data sets.
        folder: folder of the archives, to which missing archives are downloaded.
        dry_run: only print what would be done.
        again: also repeat steps that are done.

    Raises:
        FileNotFoundError: archives that must be downloaded manually are not in ``folder`` (the message names all of
            them), or another data set that this one needs is missing.
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
        print("all steps were already done")
    if sizes := [(folder / archive.name).stat().st_size for archive in archives if (folder / archive.name).exists()]:
        print(f"the archives in {folder} ({sum(sizes) / GIGABYTE:.1f} GB) are no longer needed")


def _left_as_it_is(archive: Archive, root: Path) -> bool:
    """Return whether the data of ``archive`` exists below ``root`` without this program; if so, print a message."""
    there = laid_out(archive, root)
    if there:
        print(
            f"already exists and is left unchanged: {first_few([str(root / path) for path in there])}; use --check to"
            f" verify it, or --again to unpack {archive.name} over it"
        )
    return bool(there)


def _unpacking(archive: Archive, root: Path, folder: Path) -> Step:
    size = f"{archive.size / GIGABYTE:.2f} GB"
    fetched = f"download {archive.url} ({size})" if archive.url else f"use {folder / archive.name} ({size})"
    compared = "only the size is compared" if archive.exact else "only the checksums in the archive are compared"
    unverified = "" if archive.md5 else f"; no checksum is published, so {compared}"
    return Step(
        archive.part,
        f"{fetched} and unpack it to {first_few([str(root / target) for target in archive.targets])}{unverified}",
        done=partial(is_unpacked, archive, root),
        run=lambda: unpack(archive, obtain(archive, folder), root),
        forget=partial(want_again, archive, root),
    )


def _check_needs(archives: Sequence[Archive], root: Path) -> None:
    """Raise ``FileNotFoundError`` immediately rather than after hours of downloading."""
    parts = {archive.part for archive in archives}
    for archive in archives:
        if archive.needs and archive.brought_by not in parts and not (root / archive.needs).exists():
            raise FileNotFoundError(
                f"{archive.part} needs {root / archive.needs}, which is missing; {archive.otherwise}"
            )


def _check_obtainable(pending: Sequence[Archive], folder: Path, by_hand: str) -> None:
    """Raise ``ImportError`` or ``FileNotFoundError`` if an archive cannot be read or must be downloaded manually."""
    for archive in pending:
        package = archive.read_with
        if package and importlib.util.find_spec(package) is None:
            raise ImportError(
                f"reading {archive.name} requires the {package} package, which is not installed; install it with pip"
                f" install {package}, or prepare other parts with --only"
            )
    missing = [archive.name for archive in pending if archive.url is None and not (folder / archive.name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {first_few(missing)}, which must be downloaded manually: {by_hand}; then put them"
            " there, or set --archives to the folder that contains them, and run this command again"
        )
