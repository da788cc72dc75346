"""Pillow-SIMD is built from source: where that is not possible, plain Pillow is required instead.

It needs an x86 processor, a C compiler, Python's headers and those of libjpeg and zlib. Everything else about
the package is in pyproject.toml.
"""

import os
import platform
import shlex
import subprocess
import sysconfig

from setuptools import setup
from setuptools.command.egg_info import egg_info

HEADERS = "#include <Python.h>\n#include <jpeglib.h>\n#include <zlib.h>\n"
INSTEAD = ["pillow>=12.1", "matplotlib>=3.10"]  # matplotlib requires "pillow" by name, which is right here


def builds_pillow_simd() -> bool:
    """Whether this machine can build Pillow-SIMD."""
    compiler = [*shlex.split(os.environ.get("CC", "cc")), f"-I{sysconfig.get_path('include')}", "-E", "-"]
    try:
        done = subprocess.run(compiler, input=HEADERS, capture_output=True, text=True)
    except OSError:  # there is no compiler
        return False
    return done.returncode == 0 and platform.machine() in ("x86_64", "AMD64")


class Requirements(egg_info):
    """Write the package's metadata with the Pillow that this machine can have."""

    def run(self) -> None:
        required = self.distribution.install_requires
        if not builds_pillow_simd():
            required[:] = [name for name in required if not name.startswith("pillow-simd")] + INSTEAD
        super().run()


setup(cmdclass={"egg_info": Requirements})
