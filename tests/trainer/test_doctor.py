"""The doctor finds what is broken, names the remedy, and runs with the standard library alone."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT, run
from tests.preprocess.helpers import make_store
from tests.stores import make_store_of_size
from trainer.doctor import kernels, launcher, machine, software
from trainer.doctor.finding import Outcome, attempt
from trainer.kernels.table import TABLE


def findings(done):
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_it_imports_the_standard_library_alone(tmp_path):
    # With -S there are no installed packages at all.
    code = "import trainer.doctor.__main__ as d; d.parser().parse_args([])"
    done = run("python", "-S", "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


def test_a_sound_machine_is_ready(tiny_store, tmp_path):
    command = ("python", "-m", "trainer.doctor", "--store", str(tiny_store), "--runs", str(tmp_path))
    done = run(*command, "--json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    found = findings(done)
    assert done.returncode == 0, done.stdout
    for subject in ("Python", "packages", "torch", "MPI", "store", "loopback"):
        assert found[subject]["level"] == "ok", found[subject]
    assert "10 classes, 60 + 30 images" in found["store"]["says"]
    assert "2 ranks" in found["MPI"]["says"]
    assert all(finding["remedy"] for finding in found.values() if finding["level"] != "ok")


def test_broken_packages_are_named_and_the_other_checks_continue(tmp_path):
    broken = {
        "numpy": "raise ImportError('a library is missing')",
        "tyro": "import os; os._exit(3)",
        "torch": "import os; os.abort()",
        "PIL": "raise RuntimeError('built for another Python')",
        "mpi4py": "raise ImportError('libmpi.so')",
    }
    for name, text in broken.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    done = run("python", "-m", "trainer.doctor", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    assert done.stderr == ""
    for words in (
        "package numpy",
        "ImportError: a library is missing",
        "package tyro",
        "importing it ends Python: exit code 3",
        "it does not import: ",
        "PIL does not import: RuntimeError: built for another Python",
        "mpi4py does not start: ImportError: libmpi.so",
        "127.0.0.1 answers",
        "snakemake preprocess --config",
        "not ready: ",
    ):
        assert words in done.stdout, f"{words} is not in\n{done.stdout}"


def test_a_launcher_of_another_mpi_is_caught(tmp_path, monkeypatch):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text('#!/bin/sh\ncount=$2\nshift 2\nfor i in $(seq "$count"); do "$@"; done\n')
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = launcher.mpi(2)
    assert found.level == "fail"
    assert "2 ranks that are not in one world" in found.text
    assert found.remedy.startswith("use the mpirun of ")


def test_without_a_launcher_the_remedy_is_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = launcher.mpi(2)
    assert (found.level, "no mpirun" in found.text) == ("warn", True)


@pytest.mark.parametrize(
    ("cores", "level", "words"),
    [
        ([[0, 1, 2, 3], [0, 1, 2, 3]], "ok", "4 cores, 2 threads per rank"),
        ([[0], [1]], "warn", "bound to 2 of 4 cores; the others are idle"),
        ([[0], [0]], "warn", "bound to 1 of 4 cores and share them"),
    ],
)
def test_bound_ranks_are_noticed(cores, level, words, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    reports = [[rank, 2, mine, True, "MPICH 5.0.2"] for rank, mine in enumerate(cores)]
    mpi, binding = launcher.check_ranks("mpirun", 2, [reports])
    assert (mpi.level, binding.level) == ("ok", level)
    assert words in binding.text


def test_ranks_and_gpus_are_matched(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(
        "class cuda:\n"
        "    device_count = staticmethod(lambda: 2)\n"
        "    class one: name, total_memory = 'H200', 141 * 2**30\n"
        "    get_device_properties = staticmethod(lambda i: cuda.one)\n"
        "class version: cuda = '12.8'\n"
        "__version__ = '2.13.0'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, gpus = software.torch(ranks=4)
    assert gpus.level == "warn"
    assert gpus.text == "2 (H200, 141 GiB): rank 0 GPU 0, rank 1 GPU 1, rank 2 GPU 0, rank 3 GPU 1"
    assert software.torch(ranks=2)[1].level == "ok"


def test_pillow_over_pillow_simd_is_noticed(tmp_path, monkeypatch):
    assert software.pillow().level == "ok"
    (tmp_path / "pillow-12.9.dist-info").mkdir()
    (tmp_path / "pillow-12.9.dist-info" / "METADATA").write_text("Name: pillow\nVersion: 12.9\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = software.pillow()
    assert found.level == "warn"
    assert found.remedy.startswith("pip uninstall -y pillow")


def test_pillow_alone_is_slower_and_the_remedy_has_the_headers(monkeypatch):
    alone = Outcome([["12.1.1", None, "12.1.1", True]], "")
    monkeypatch.setattr(software, "attempt", lambda script: alone)
    found = software.pillow(x86=True)
    assert (found.level, "at half the speed" in found.text) == ("warn", True)
    assert "libjpeg-dev" in found.remedy
    assert "pip uninstall -y pillow" in found.remedy
    assert software.pillow(x86=False).level == "ok"


def test_a_missing_compiled_module_is_noticed(monkeypatch):
    monkeypatch.setattr(software, "built", lambda extension: "_square" not in extension)
    found = software.pillow()
    assert (found.level, "_square.c" in found.text) == ("warn", True)


def test_packages_for_some_sources_alone_are_named_where_they_are_missing(monkeypatch):
    everything = "Parquet, tar.gz, WebP and compressed TIFF, HEIC can be read"
    assert (software.sources().level, software.sources().text) == ("ok", everything)
    find_spec = importlib.util.find_spec
    missing = ("pyarrow", "pillow_heif")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in missing else find_spec(n))
    assert software.sources().text == (
        "tar.gz, WebP and compressed TIFF can be read; for Parquet: pip install pyarrow; "
        "for HEIC: pip install --no-deps pillow-heif"
    )


def test_a_missing_handler_of_ctrl_c_is_noticed(monkeypatch):
    assert software.ctrl_c().level == "ok"
    monkeypatch.setattr(software, "built", lambda extension: False)
    assert software.ctrl_c().level == "warn"


@pytest.mark.parametrize(
    ("flags", "text"), [("avx512_bf16 amx_bf16", "bfloat16 on"), ("avx512f", "float32 on")]
)
def test_the_precision_that_a_processor_gets_is_told(flags, text, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}")
    found = machine.processor(tmp_path / "cpuinfo")
    assert (found.level, f"--precision auto is {text}" in found.text) == ("ok", True)


def test_every_operation_has_its_kernels():
    found = {finding.subject: finding for finding in kernels.kernels()}
    assert list(found) == ["compiled loops", *(f"kernel {operation}" for operation in TABLE)]
    assert found["compiled loops"].text.startswith("are kept in /")
    for operation, backends in TABLE.items():
        names = ", ".join(b.name for b in backends if b.needs.available)
        assert found[f"kernel {operation}"].text.split(";")[0] == names


def test_instructions_that_nothing_uses_are_noticed(monkeypatch):
    lacking = [
        [b.name, dataclasses.asdict(dataclasses.replace(b.needs, available=b.name == "torch"))]
        for b in TABLE["conv2d"]
    ]
    files = "trainer/kernels/_convolve.c, trainer/kernels/_weight_gradient.c"
    for built, flags, level in (
        (False, ["amx_bf16"], "warn"),
        (False, ["avx512_bf16"], "ok"),
        (True, ["amx_bf16"], "ok"),
    ):
        monkeypatch.setattr(kernels, "built", lambda module, built=built: built)
        found = kernels.judge("conv2d", lacking, flags)
        assert found.level == level
        assert found.text.startswith("torch; amx needs a CPU with AMX")
        assert (f"not built: {files}:" in found.text, bool(found.remedy)) == (level == "warn",) * 2


def test_a_cache_that_snakemake_cannot_write_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file/cache"))
    (found,) = machine.home()
    assert (found.level, found.remedy) == ("warn", "export XDG_CACHE_HOME=FOLDER, one that you can write to")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine.home() == []


def test_without_a_folder_for_compiled_loops_it_names_the_variable():
    assert kernels.cache(None).remedy.startswith("export NUMBA_CACHE_DIR=FOLDER")


def test_kernels_that_do_not_import_are_told(tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text("raise ImportError('llvmlite is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (found,) = kernels.kernels()
    assert (found.level, "llvmlite is missing" in found.text) == ("fail", True)


def test_a_store_of_images_smaller_than_a_crop_fails(tiny_store, tmp_path):
    found = machine.store(make_store_of_size(48, tiny_store.parent / "imagenet", tmp_path / "48.zarr"))
    assert found.level == "fail"
    assert found.text == "its images have 48x48 pixels, and the network crops 224x224"
    assert "image_size=256" in found.remedy


def test_a_store_for_evaluation_alone_is_no_store_to_train_on(tiny_store, tmp_path):
    imagenet = tiny_store.parent / "imagenet"
    found = machine.store(make_store(imagenet, tmp_path / "set.zarr", "--split", "val", "--image-size", 224))
    assert found.level == "warn"
    assert "for evaluation alone" in found.remedy


def test_a_damaged_image_in_the_sample_fails(tiny_store, tmp_path):
    copy = shutil.copytree(tiny_store, tmp_path / "copy.zarr")
    shard = copy / "val" / "images" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1  # a pixel of the first image
    shard.write_bytes(data)
    found = machine.store(copy)
    assert found.level == "fail"
    assert found.remedy == f"python -m preprocess.verify --store {copy}"
    assert machine.store(tiny_store).level == "ok"


def test_a_folder_that_cannot_be_written_fails():
    assert machine.disk(machine.Path("/proc/runs")).level == "fail"


def test_too_many_ranks_for_the_memory_is_a_warning():
    found = machine.memory(ranks=100_000)
    assert found.level == "warn"
    assert "--batch-size" in found.remedy


def test_free_memory_is_left_out_where_the_system_does_not_report_it(tmp_path):
    found = machine.memory(2, meminfo=tmp_path / "meminfo")
    assert (found.level, "for 2 ranks" in found.text) == ("ok", True)


def test_files_of_killed_ranks_in_shared_memory_are_noticed():
    if "HYDRA" not in run("mpirun", "--version", cwd=ROOT).stdout:
        pytest.skip("only MPICH is known to leave its file there")
    script = (
        "import os, time; from mpi4py import MPI; pids = MPI.COMM_WORLD.allgather(os.getpid())\n"
        "if MPI.COMM_WORLD.rank == 0: print(pids[0], flush=True)\n"
        "time.sleep(600)"
    )
    command = ("mpirun", "-n", "2", sys.executable, "-c", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        try:
            rank = int(job.stdout.readline())
            maps = Path(f"/proc/{rank}/maps").read_text().splitlines()
            (name,) = {line.split()[-1] for line in maps if "/mpich_shm_" in line}
            alive = machine.orphaned_segments()
            os.kill(rank, signal.SIGKILL)  # and mpirun kills the other
            job.wait(60)
        finally:
            job.kill()
    file = Path(name)
    try:
        assert file not in alive
        assert machine.orphaned_segments()[file] == file.stat().st_size
        (found,) = machine.shared_memory()
        assert (found.level, found.remedy) == ("warn", "rm /dev/shm/mpich_shm_*, while no ranks start")
    finally:
        file.unlink()
    assert file not in machine.orphaned_segments()


def test_a_process_that_hangs_is_killed_and_reported(monkeypatch):
    monkeypatch.setattr("trainer.doctor.finding.SECONDS", 1)
    outcome = attempt(script="import time; time.sleep(600)")
    assert outcome.failure == "no answer within 1 seconds"
    assert attempt("/nowhere/mpirun", script="").failure == "/nowhere/mpirun: No such file or directory"
    assert attempt(script=f"raise SystemExit({sys.maxsize % 7 + 1})").failure.startswith("exit code")
