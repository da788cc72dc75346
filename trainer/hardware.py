"""GPUs and networks by their makers' figures: what the model in scaling.py computes with."""

from __future__ import annotations

from dataclasses import dataclass

KERNELS = 150  # that a step starts
HOST_LATENCY = 3e-6  # seconds of one exchange between GPUs of a host


@dataclass(frozen=True)
class Gpu:
    """Figures of the makers' data sheets; `share` is what the network reaches of the peak."""

    flops: float
    """Dense matrix operations a second in 16 bits."""
    memory: float
    """Bytes a second to and from its memory."""
    link: float
    """Bytes a second to another GPU of the same host, one direction."""
    share: float = 0.22
    """A100, fp16: 16,487 img/s published for an AlexNet of 4.1 GFLOP an image, of 312 TFLOP/s."""
    launch: float = 5e-6
    """Seconds that a kernel takes to start; a step starts about KERNELS."""


# NVIDIA's data sheets: V100 SXM2, A100 SXM 80 GB, H100 SXM, H200 SXM; no sparsity, NVLink by direction.
GPUS = {
    "v100": Gpu(125e12, 0.90e12, 150e9),
    "a100": Gpu(312e12, 2.04e12, 300e9),
    "h100": Gpu(989e12, 3.35e12, 450e9),
    "h200": Gpu(989e12, 4.80e12, 450e9),
}


@dataclass(frozen=True)
class Interconnect:
    """Between hosts, for each GPU."""

    bandwidth: float
    """Bytes a second, one direction."""
    latency: float
    """Seconds from one process to another."""


# Signalling rates by the InfiniBand Trade Association and IEEE 802.3, one port a GPU; latencies are what MPI
# benchmarks commonly show, a microsecond or two over InfiniBand and some ten over TCP.
NETWORKS = {
    "10gbe": Interconnect(1.25e9, 30e-6),
    "100gbe": Interconnect(12.5e9, 10e-6),
    "hdr": Interconnect(25e9, 2e-6),
    "ndr": Interconnect(50e9, 2e-6),
}
