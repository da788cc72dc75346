"""Train and evaluate the two-tower network.

A trained network in a program or a notebook:

    from trainer import load

    network = load("runs/auto-001")
    p_BK = network.probabilities(["cat.jpg", "dog.jpg"])    # float32 [B, K]
"""

import os
from typing import TYPE_CHECKING

from preprocess.shared.cores import available_cores
from trainer.parallel import interrupt

if TYPE_CHECKING:
    from trainer.evaluation.pretrained import load
else:

    def __getattr__(name: str) -> object:
        """Import `load` at its first use (PEP 562): `import trainer` alone must not wait for torch."""
        if name == "load":
            from trainer.evaluation.pretrained import load

            return load
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["load"]

# Read by UCX when MPI starts, at the first import of mpi4py. By default UCX drops a TCP connection after 16
# seconds without a packet and reports nothing. The next message over it, from the watchdog, would be a
# segmentation fault.
os.environ.setdefault("UCX_TCP_KEEPIDLE", "3600s")

# Read by MPICH when it starts. With more ranks than cores on a host, one that waits must let others compute.
if int(os.environ.get("MPI_LOCALNRANKS", "1")) > available_cores():
    os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")

# From here on, since the imports alone take seconds.
if interrupt.is_command():
    interrupt.end_at_once()
