"""`make setup` installs what setup.py asks for, at versions and with files that the lock names."""

import itertools
import re
import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parents[1] / "requirements"


def locked(name: str, python: str) -> dict[str, str]:
    """Return the versions that a lock has for a Python on Linux; each must have the hashes of its files."""
    environment = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    versions = {}
    for line in re.sub(r"\\\n", "", (REQUIREMENTS / name).read_text()).splitlines():
        if line.startswith(("#", " ")):
            continue
        pin, *hashes = line.split(" --hash=")
        requirement = Requirement(pin)
        (only,) = requirement.specifier
        assert only.operator == "=="
        assert hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64} *", word) for word in hashes)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in versions
            versions[requirement.name] = only.version
    return versions


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0", "3.14.0"])
def test_lock__has_a_version_in_every_range_of_setup(python, monkeypatch):
    monkeypatch.chdir(REQUIREMENTS.parent)
    arguments: dict = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    runpy.run_path("setup.py")
    versions = locked("lock.txt", python)
    extras = re.search("^EXTRAS := (.+)", Path("Makefile").read_text(), flags=re.MULTILINE)[1].split(",")
    required = itertools.chain(arguments["install_requires"], *map(arguments["extras_require"].get, extras))
    for requirement in map(Requirement, required):
        if not requirement.name.startswith("opencv"):  # setup.py asks for the one that is installed
            assert requirement.specifier.contains(versions[requirement.name]), requirement
    builders = locked("build.txt", python)
    assert {"setuptools", "wheel"} <= builders.keys()
    assert builders.items() <= versions.items()


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_lock__names_no_address(path):
    """Pip takes the files from where its own configuration says; whoever has them, their hashes are the same."""
    assert not re.search("://|--index|--find-links", path.read_text())
