import pytest

from trainer import kernels


@pytest.fixture(autouse=True)
def automatic_choice():
    """Whatever a test chooses, the next one begins with the choice of a run."""
    yield
    kernels.use("auto")
