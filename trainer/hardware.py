"""Data of GPUs and interconnects, for the cost model in scaling.py."""

from __future__ import annotations

from dataclasses import dataclass

KERNELS = 150  # that a step launches
HOST_LATENCY = 3e-6  # seconds of one exchange between two GPUs of a host


@dataclass(frozen=True)
class Gpu:
    """Data sheet values, and the share of the peak that the network reaches."""

    flops: float
    """Peak of dense matrix multiplication in 16 bits, floating-point operations per second."""
    memory: float
    """Memory bandwidth, bytes per second."""
    link: float
    """Bandwidth to another GPU of the same host, bytes per second in one direction."""
    share: float = 0.22
    """Published for an A100, fp16 (312 TFLOP/s): 16,487 images/s of an AlexNet of 4.1 GFLOP per image."""
    launch: float = 5e-6
    """Seconds to launch one kernel; a step launches KERNELS of them."""


# NVIDIA's data sheets: V100 SXM2, A100 SXM 80 GB, H100 SXM, H200 SXM. No sparsity; NVLink in one direction.
GPUS = {
    "v100": Gpu(125e12, 0.90e12, 150e9),
    "a100": Gpu(312e12, 2.04e12, 300e9),
    "h100": Gpu(989e12, 3.35e12, 450e9),
    "h200": Gpu(989e12, 4.80e12, 450e9),
}


@dataclass(frozen=True)
class Interconnect:
    """The network between hosts, as each GPU has it."""

    bandwidth: float
    """Bytes per second in one direction."""
    latency: float
    """Seconds from one process to another."""


# Signalling rates by the InfiniBand Trade Association and IEEE 802.3, one port per GPU. Latencies are typical
# of MPI benchmarks: one or two microseconds over InfiniBand, about ten over TCP.
INTERCONNECTS = {
    "10gbe": Interconnect(1.25e9, 30e-6),
    "100gbe": Interconnect(12.5e9, 10e-6),
    "hdr": Interconnect(25e9, 2e-6),
    "ndr": Interconnect(50e9, 2e-6),
}
