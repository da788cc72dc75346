"""Preprocessing: JPEGs of ImageNet -> one verified zarr store."""

import signal
import sys
from itertools import pairwise

# While a command imports its packages, which takes up to a second, Ctrl-C ends it without a traceback.
_COMMAND = any(flag == "-m" and name.startswith("preprocess.") for flag, name in pairwise(sys.orig_argv))
if _COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
