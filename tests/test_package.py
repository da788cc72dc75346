"""The metadata of the package, which pip reads: the scripts, and the Pillow that a machine can have."""

import shutil
import sys

import pytest

from tests.launch import ROOT, run

METADATA = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('built')"


@pytest.mark.parametrize(
    ("compiler", "pillow"),
    [("cc", "pillow-simd>=12.1"), ("false", "pillow>=12.1"), ("no-such-compiler", "pillow>=12.1")],
)
def test_pillow_simd_is_required_where_it_can_be_built_and_pillow_elsewhere(compiler, pillow, tmp_path):
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "built").mkdir()
    done = run(sys.executable, "-c", METADATA, cwd=tmp_path, CC=compiler)
    assert done.returncode == 0, done.stderr
    (metadata,) = tmp_path.glob("built/*.dist-info/METADATA")
    required = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist: ")]
    always = [line for line in required if "extra ==" not in line]
    assert [line for line in always if "pillow" in line] == [f"Requires-Dist: {pillow}"]
    (scripts,) = tmp_path.glob("built/*.dist-info/entry_points.txt")
    assert "alexnet = trainer.alexnet:main" in scripts.read_text()


def test_a_built_package_holds_every_file_of_the_sources(tmp_path):
    for package in ("preprocess", "trainer"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    done = run(sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", "built", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for package in ("preprocess", "trainer"):
        sources = {p.relative_to(tmp_path) for p in (tmp_path / package).rglob("*") if p.is_file()}
        built = {p.relative_to(tmp_path / "built") for p in (tmp_path / "built" / package).rglob("*")}
        assert {path for path in sources - built if path.suffix != ".c"} == set()
        assert (tmp_path / "built" / package / "py.typed").is_file()  # or type checkers ignore its types
