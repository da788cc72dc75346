import subprocess
import sys

import pytest


@pytest.mark.parametrize(("limits", "after"), [((20, 40), None), ((20, 100), 64), ((80, 100), 80)])
def test_the_limit_of_open_files_is_raised_or_too_low(limits: tuple[int, int], after: int | None) -> None:
    program = (
        "import resource; from preprocess.shared.open_files import lacking_open_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "print(lacking_open_files(64) or resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    sentence = "64 open files, and this process may have 40: allow more (ulimit -n 64)"
    assert done.stdout == f"{after or sentence}\n"
