"""The lock files that scripts/setup.sh installs from fit pyproject.toml."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from places import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
BUILD = ["setuptools<80", "wheel", *PYPROJECT["build-system"]["requires"]]
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]


def entries(name: str) -> dict[str, list[str]]:
    """The lines of a lock file by the name of their package: several where platforms or Pythons differ."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / name).read_text()):
        if not entry.startswith("#"):
            found.setdefault(canonical(re.split(r"==", entry)[0]), []).append(entry)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def version(entry: str) -> str:
    return re.match(r"\S+==(\S+)", entry)[1]


@pytest.mark.parametrize(
    "lock, lines",
    [
        ("requirements.lock", PROJECT["dependencies"] + BUILD),
        ("requirements-test.lock", PROJECT["dependencies"] + BUILD + EXTRAS),
    ],
)
def test_a_lock_has_a_version_that_fits_of_every_requirement(lock, lines):
    found = entries(lock)
    for line in lines:
        requirement = Requirement(line)
        name = canonical(requirement.name)
        if name in ("kp", "ggml-python"):  # setup.sh builds it
            continue
        assert name in found, f"{lock} lacks {line}: run scripts/lock.sh"
        assert all(version(entry) in requirement.specifier for entry in found[name]), (
            f"{lock}: {line}: run scripts/lock.sh"
        )


def test_both_locks_have_the_same_versions_of_what_the_product_needs():
    """Else scripts/run.sh and scripts/test.sh would undo each other's work."""
    product, tests = entries("requirements.lock"), entries("requirements-test.lock")
    assert len(product) > 30
    for name, found in product.items():
        assert {version(entry) for entry in found} == {version(entry) for entry in tests[name]}, name


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_has_hashes_and_names_no_index(lock):
    assert "://" not in (ROOT / lock).read_text()
    for name, found in entries(lock).items():
        assert all("--hash=sha256:" in entry for entry in found), name


def test_every_dependency_has_a_lower_bound():
    for line in PROJECT["dependencies"] + PYPROJECT["build-system"]["requires"] + EXTRAS:
        assert {one.operator for one in Requirement(line).specifier} & {">=", "==", "~="}, line
