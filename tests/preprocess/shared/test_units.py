import subprocess
import sys

from preprocess.shared.units import duration, size


def test_durations_have_two_units() -> None:
    assert [duration(s) for s in (12.4, 59.7, 843, 7500, 276_000)] == [
        "12 s",
        "1 min 00 s",
        "14 min 03 s",
        "2 h 05 min",
        "3 d 4 h",
    ]


def test_sizes_have_three_digits_and_no_exponent() -> None:
    # 488 MB: the parameters and momenta of AlexNet, 60,965,224 x 2 x 4 bytes
    counts = (0, 999, 999.7, 65_536, 60_965_224 * 2 * 4, 999_600_000, 1.5e12)
    assert list(map(size, counts)) == [
        "0 B",
        "999 B",
        "1 kB",
        "65.5 kB",
        "488 MB",
        "1 GB",
        "1.5 TB",
    ]


def test_units_import_the_standard_library_alone() -> None:
    program = (
        "import sys; before = set(sys.modules); import preprocess.shared.units;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "sys.exit(', '.join(new - {'preprocess'} - sys.stdlib_module_names) or None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
