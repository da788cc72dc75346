"""The processor's name as it stands next to measured times."""

import pytest

from preprocess.shared.cores import available_cores, processor

CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R)   Processor
flags\t\t: fpu sse2 {flags}

processor\t: 1
model name\t: Intel(R) Xeon(R)   Processor
flags\t\t: fpu sse2 {flags}
"""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("avx2 avx512f avx512_bf16 amx_bf16", ", AMX"),
        ("avx2 avx512f avx512_bf16", ", AVX-512 with bfloat16"),
        ("avx2 avx512f", ", AVX-512"),
        ("avx2", ", AVX2"),
        ("", ""),
    ],
)
def test_a_processor_is_named_with_its_fastest_instructions(flags, words, tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags=flags))
    assert processor(tmp_path / "cpuinfo") == f"Intel(R) Xeon(R) Processor, {available_cores()} cores{words}"


def test_without_a_list_of_processors_the_architecture_is_named(tmp_path):
    assert processor(tmp_path / "none").endswith(f", {available_cores()} cores")
    assert not processor(tmp_path / "none").startswith(",")
