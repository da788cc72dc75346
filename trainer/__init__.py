"""Train and evaluate the two-tower network."""

import os

from trainer.parallel import interrupt

# Read by UCX when MPI starts, at the first import of mpi4py. On TCP it would give up a host after 16 seconds
# of silence and tell nobody; the next message there, the watchdog's question who is missing, would be a
# segmentation fault.
os.environ.setdefault("UCX_TCP_KEEPIDLE", "3600s")

# Read by MPICH when it starts. With more ranks than cores on a host, one that waits must let others compute.
if int(os.environ.get("MPI_LOCALNRANKS", "1")) > len(os.sched_getaffinity(0)):
    os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")

# From here on, since the imports alone take seconds.
if interrupt.is_command():
    interrupt.end_at_once()
