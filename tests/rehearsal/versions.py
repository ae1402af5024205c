"""``python -m tests.rehearsal.versions OUTPUT``: tests with the oldest versions that setup.py allows, and the newest.

The two environments, ``OUTPUT/oldest`` and ``OUTPUT/newest``, are created with `make setup`. The oldest environment
contains the lower bound of every user requirement, and the newest version of all other packages. If this Python cannot
install a lower bound, setup.py is wrong. ``OUTPUT`` keeps the environments (6 GB each), lists of their versions
(``oldest.txt``) and the output of the test suite (``oldest.log``). The exit status is 1 if a test failed.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from build.util import project_wheel_metadata
from packaging.requirements import Requirement
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[2]
EXTRAS = ("cityscapes", "jpeg")  # the extras for users
SHOWN = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow")
OUTCOMES = ("passed", "failed", "skipped")


def lower_bounds(requirements: Iterable[str]) -> list[str]:
    """Return pip constraints that pin a user's requirements to their lower bounds, but not a developer's tools.

    Args:
        requirements: the requirements, as in ``Requires-Dist``.
    """
    return [
        f"{requirement.name}=={bound.version}"
        for requirement in map(Requirement, requirements)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS)
        for bound in requirement.specifier
        if bound.operator == ">="
    ]


def outcomes(report: Path) -> dict[str, int]:
    """Count the tests in a JUnit report by outcome. An error counts as a failure."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    number = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    return dict(zip(OUTCOMES, (number["tests"] - failed - number["skipped"], failed, number["skipped"]), strict=True))


def install(environment: Path, python: str, constraints: Path | None) -> dict[str, str]:
    """Install the newest versions that ``constraints`` allow in an environment, and return all versions."""
    command = ["make", "setup", "NEWEST=1", f"VENV={environment}", f"PYTHON={python}"]
    extra = {} if constraints is None else {"PIP_CONSTRAINT": str(constraints)}
    subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **extra}, check=True)
    freeze = [environment / "bin" / "python", "-m", "pip", "list", "--format", "freeze"]
    listed = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    environment.with_suffix(".txt").write_text(listed)
    return dict(line.split("==") for line in listed.splitlines())


def run_suite(environment: Path, paths: Sequence[str], jobs: int) -> dict[str, int]:
    """Run the tests in ``paths`` with an environment's Python, save their output next to it, and count the outcomes."""
    report = environment.with_suffix(".xml")
    words = ["-m", "pytest", "-n", str(jobs), "--dist", "loadfile", "--junit-xml", str(report), *paths]
    with environment.with_suffix(".log").open("w") as log:
        command = [environment / "bin" / "python", *words]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **threads}, stdout=log, stderr=log, check=False)
    return outcomes(report)


def main() -> None:
    """Create the environments, run the test suite in each, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", choices=("oldest", "newest"), help="environment to test (default: both)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PYTHON",
        help="Python to use (default: the one that runs this command)",
    )
    parser.add_argument(
        "--paths", nargs="+", default=["tests"], metavar="PATH", help="paths of the tests (default: all)"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="number of tests at a time (default: 2)")
    args = parser.parse_args()
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    oldest = output / "lower_bounds.txt"
    required = project_wheel_metadata(REPOSITORY, isolated=False).get_all("Requires-Dist", [])
    oldest.write_text("".join(f"{line}\n" for line in lower_bounds(required)))
    rows = []
    for name, constraints in (("oldest", oldest), ("newest", None)):
        if args.only in (None, name):
            versions = install(output / name, args.python, constraints)
            start = time.monotonic()
            counts = run_suite(output / name, args.paths, args.jobs)
            minutes = (time.monotonic() - start) / 60
            rows.append([name, *(versions[package] for package in SHOWN), *counts.values(), f"{minutes:.0f}"])
    print(tabulate(rows, ["", *SHOWN, *OUTCOMES, "minutes"], tablefmt="github", disable_numparse=True))
    sys.exit(any(int(row[-3]) for row in rows))


if __name__ == "__main__":
    main()
