import pytest

from tests.trainer.kernels import stand_in
from trainer import kernels
from trainer.kernels import amx, avx512


@pytest.fixture(autouse=True)
def automatic_choice():
    """Whatever a test chooses, the next one begins with the choice of a run."""
    yield
    kernels.use("auto")


@pytest.fixture(scope="session")
def in_plain_c(tmp_path_factory):
    """Loads extensions whose instructions are those of stand_in.h."""
    return stand_in.loader(tmp_path_factory.mktemp("stand_in"))


BUILDS = [pytest.param("processor", marks=pytest.mark.processor), "plain C"]


def choose(module, build, load, monkeypatch):
    if build == "plain C":
        stand_in.take(module, load, monkeypatch)
    elif not module.AVAILABLE:
        pytest.skip(f"this processor lacks the instructions of {module.__name__}, or it was not compiled")


@pytest.fixture(params=BUILDS)
def amx_build(request, in_plain_c, monkeypatch):
    """A test of amx.py runs with the processor's instructions, where it has them, and with stand_in.h's."""
    choose(amx, request.param, in_plain_c, monkeypatch)


@pytest.fixture(params=BUILDS)
def avx512_build(request, in_plain_c, monkeypatch):
    """The same for avx512.py."""
    choose(avx512, request.param, in_plain_c, monkeypatch)
