import sys

from preprocess.shared.units import duration, size
from tests.commands import run_python
