"""Run several commands of the project in one process, one after the other, as `python -m` does.

    python -m tests.commands COMMANDS.json    a list of lists: module, flags

Starting a process and loading torch costs far more than these small commands do. One that fails ends it.
"""

import json
import runpy
import sys
from pathlib import Path


def main() -> None:
    commands = json.loads(Path(sys.argv[1]).read_text())
    for module, *flags in commands:
        print(f"$ {module} {' '.join(flags)}", flush=True)
        sys.argv[:] = [module, *flags]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                raise


if __name__ == "__main__":
    main()
