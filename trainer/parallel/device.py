"""Which device a rank computes on, in which precision, and without which kernels."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from trainer.errors import UserError
from trainer.kernels.self_check import left_out


def choose_device(setting: str, host_rank: int) -> torch.device:
    """Rank i of a host takes GPU i; where ranks outnumber GPUs they share them."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here; use --device cpu or --device auto.")
    device = torch.device("cuda", host_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def kernels_left_out(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Try the GPU's kernels before their first use; a sentence for each that is not used here."""
    return left_out(device, dtype)


def make_deterministic(device: torch.device) -> None:
    """On a GPU: sums in one order, so that the same step has the same bits; float32 without TF32.

    On the CPU both hold always.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def gpu_id(device: torch.device) -> str | None:
    """The UUID of a GPU, the same in every process; None for the CPU.

    Its number is not: where a scheduler shows each rank its own GPU alone, every rank has cuda:0.
    """
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def resolve_precision(setting: str, device: torch.device) -> str:
    """`auto` is bfloat16 where the processor multiplies it natively, float32 elsewhere."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Without bfloat16 instructions (AVX-512 BF16, AMX) a CPU emulates the products, slowly.
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
