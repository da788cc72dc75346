"""The exchanges over torch.distributed: NCCL between GPUs, gloo between CPUs.

MPI remains the launcher: it passes on where the processes connect. Its pair and tower communicators get
torch's groups of the same ranks.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.parallel.topology import Topology
from trainer.parallel.transport import Done, Pending, Transport


class OverTorch(Transport):
    """One tower on this rank. Reductions run on NCCL's stream, or in gloo's threads."""

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology)
        self._device = topology.device
        self.name = "NCCL" if topology.device.type == "cuda" else "gloo"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="all-reduce")
        self._pairs = range(self._index, topology.world.size, self._pair_size)  # ranks of this tower
        self._pair_index = topology.pair
        if not dist.is_initialized():
            _join(topology)
        # Every rank must call new_group for every group, also for those that it does not belong to.
        self._stream: torch.cuda.Stream | None = None
        self._tower = [
            dist.new_group(list(range(tower, topology.world.size, self._pair_size)))
            for tower in range(self._pair_size)
        ][self._index]
        first = topology.rank - self._index
        self._peer = first + 1 - self._index
        self._pair = [
            dist.new_group([2 * pair, 2 * pair + 1] if self._partner else [pair])
            for pair in range(topology.pairs)
        ][topology.pair]

    def _sendrecv(self, mine: Tensor) -> Tensor:
        if mine.dim() == 4:
            mine = mine.contiguous(memory_format=torch.channels_last)
            theirs = torch.empty_like(mine)
            sent, received = (t.permute(0, 2, 3, 1) for t in (mine, theirs))
        else:
            sent = mine.contiguous()
            received = theirs = torch.empty_like(sent)
        # As bytes, since not every backend supports every dtype.
        operations = [
            dist.P2POp(dist.isend, sent.view(torch.uint8), self._peer, self._pair),
            dist.P2POp(dist.irecv, received.view(torch.uint8), self._peer, self._pair),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        return theirs

    def all_reduce_async(self, flat: Tensor) -> Pending:
        if self._tower.size() == 1:
            return Done()
        if flat.dtype == torch.bfloat16:
            return self._reduce_bfloat16_async(flat)
        work = dist.all_reduce(flat, group=self._tower, async_op=True)
        assert work is not None
        return Waiting(work)

    def _reduce_bfloat16_async(self, flat: Tensor) -> Pending:
        """On a GPU in a stream of its own; on a CPU in a thread."""
        place = self._pair_index, len(self._pairs)
        if self._device.type != "cuda":
            return self._thread.submit(self._reduce_bfloat16, flat, *place)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._reduce_bfloat16(flat, *place)
        flat.record_stream(self._stream)
        return OnGpu(self._stream.record_event(), self._device)

    def _exchange_with(self, others: list[int], sent: list[Tensor], received: list[Tensor]) -> None:
        pairs, group = self._pairs, self._tower
        operations = []
        for r, out, into in zip(others, sent, received, strict=True):
            operations.append(dist.P2POp(dist.isend, out.view(torch.uint8), pairs[r], group))
            operations.append(dist.P2POp(dist.irecv, into.view(torch.uint8), pairs[r], group))
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    def all_reduce_scalars(self, values: Tensor) -> Tensor:
        out = values.to(self._device, torch.float64, copy=True)
        dist.all_reduce(out, group=self._tower)
        return out.cpu()


class OnGpu:
    """A reduction on another stream of the GPU; the current stream waits for it, not the host."""

    def __init__(self, done: torch.cuda.Event, device: torch.device) -> None:
        self._done, self._device = done, device

    def result(self) -> None:
        """The current stream waits until it is done."""
        torch.cuda.current_stream(self._device).wait_event(self._done)


class Waiting:
    """A reduction in progress; on a GPU the stream waits for it, not the host."""

    def __init__(self, work: dist.Work) -> None:
        self._work = work

    def result(self) -> None:
        """Wait until it is done. Raises torch's error when a partner is lost."""
        self._work.wait()


def _join(topology: Topology) -> None:
    """Join all ranks in one process group. On a single host no port is opened to other hosts."""
    world, one_host = topology.world, len(set(topology.hosts)) == 1
    if one_host:
        if Path("/sys/class/net/lo").exists():
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # torch removes the file with the last process that used it. A rank that removed it sooner would race
        # with the others.
        mine = _empty_file() if topology.is_root else None
        store: dist.Store = dist.FileStore(world.bcast(mine), world.size)
    else:
        host, ours = topology.hosts[0], None
        if topology.is_root:
            ours = dist.TCPStore(host, 0, world.size, is_master=True, wait_for_workers=False)
        port = world.bcast(ours.port if ours else None)
        store = ours or dist.TCPStore(host, port, world.size, is_master=False)
    backend = "nccl" if topology.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=topology.rank, world_size=world.size)
    atexit.register(dist.destroy_process_group)


def _empty_file() -> str:
    descriptor, name = tempfile.mkstemp(prefix="alexnet-")
    os.close(descriptor)
    return name
