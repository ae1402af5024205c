"""What a preparation consists of: steps that know whether they have been done, taken in order."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mocodet.common.locks import exclusive
from mocodet.common.text import first_few

from .archives import GIGABYTE, Archive, is_unpacked, obtain, require_space, unpack


@dataclass(frozen=True)
class Step:
    """Something to do once: ``what`` it is, in a line; whether it is ``done``; how to ``run`` it.

    ``part`` is what ``--only`` calls it, as in `Archive`.
    """

    part: str
    what: str
    done: Callable[[], bool]
    run: Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """How a data set is prepared.

    Attributes:
        archives: what is fetched and unpacked.
        by_hand: how to get the archives that have no address: where, and after what.
        further: what is done with the unpacked files.
    """

    archives: Sequence[Archive]
    by_hand: str = ""
    further: Sequence[Step] = ()


def only_parts(plan: Plan, parts: Sequence[str]) -> Plan:
    """Keep the archives and steps of ``parts``, or all of them if that is empty.

    Raises:
        ValueError: there is no such part.
    """
    known = list(dict.fromkeys(archive.part for archive in plan.archives))
    if unknown := [part for part in parts if part not in known]:
        raise ValueError(f"--only {unknown[0]}: the parts are {', '.join(known)}")
    if not parts:
        return plan
    archives = [archive for archive in plan.archives if archive.part in parts]
    return Plan(archives, plan.by_hand, [step for step in plan.further if step.part in parts])


def prepare(plan: Plan, root: Path, folder: Path, *, dry_run: bool = False) -> None:
    """Take every step of ``plan`` that has not been taken; two processes at once take turns.

    Args:
        plan: what to do.
        root: the folder of the data sets.
        folder: where archives are, or are downloaded to.
        dry_run: only say what would be done.

    Raises:
        FileNotFoundError: archives that must be fetched by hand are not in ``folder``; the message names all of them.
        ImportError: a package that reads the files is not installed.
        ValueError: an archive is damaged.
        OSError: a download failed, or there is no room.
    """
    if dry_run:
        for step in [*_archive_steps(plan, root, folder), *plan.further]:
            print(f"{'done already' if step.done() else 'to do'}: {step.what}")
        return
    _require_packages(plan, root)
    _require_fetched_by_hand(plan, root, folder)
    require_space(plan.archives, root, folder)
    with exclusive(root / ".prepared" / "prepare"):
        todo = [step for step in [*_archive_steps(plan, root, folder), *plan.further] if not step.done()]
        for step in todo:
            print(step.what, flush=True)
            step.run()
    if not todo:
        print("everything had been done before")
    left = [archive for archive in plan.archives if (folder / archive.name).exists()]
    if left:
        size = sum((folder / archive.name).stat().st_size for archive in left) / GIGABYTE
        print(f"the archives in {folder} ({size:.1f} GB) are not needed any more")


def _archive_steps(plan: Plan, root: Path, folder: Path) -> list[Step]:
    steps = []
    for archive in plan.archives:
        size = f"{archive.size / GIGABYTE:.2f} GB"
        fetched = f"download {archive.url} ({size})" if archive.url else f"take {folder / archive.name} ({size})"
        unverified = "" if archive.md5 else "; no checksum of it is published, only its size is compared"
        steps.append(
            Step(
                archive.part,
                f"{fetched}, unpack it to {first_few([str(root / target) for target in archive.targets])}{unverified}",
                lambda archive=archive: is_unpacked(archive, root),
                lambda archive=archive: unpack(archive, obtain(archive, folder), root),
            )
        )
    return steps


def _require_packages(plan: Plan, root: Path) -> None:
    """Raise ``ImportError`` now rather than after hours of downloading."""
    for archive in plan.archives:
        package = archive.read_with
        if package and not is_unpacked(archive, root) and importlib.util.find_spec(package) is None:
            raise ImportError(
                f"what is in {archive.name} is read with {package}: pip install {package}, or prepare other parts with"
                " --only"
            )


def _require_fetched_by_hand(plan: Plan, root: Path, folder: Path) -> None:
    missing = [
        archive.name
        for archive in plan.archives
        if archive.url is None and not is_unpacked(archive, root) and not (folder / archive.name).exists()
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {first_few(missing)}, which must be fetched by hand: {plan.by_hand}; put them there, or"
            " name the folder that holds them with --archives, and run this again"
        )
