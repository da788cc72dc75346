"""Reads .safetensors files that may be damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors
from torch import Tensor

from trainer.errors import UserError

ABOUT = "about"
"""The key of the header's text that this program writes, JSON."""


class TensorsError(ValueError):
    """The message is a clause that begins with the file's name."""


DAMAGE = (safetensors.SafetensorError, OSError, RuntimeError, TypeError, ValueError, AttributeError)
"""What reading a damaged file raises; torch lacks some of the format's types."""
FLOATING = ("float32", "float16", "bfloat16", "float64")


def require_floating(path: Path, name: str, dtype: str) -> None:
    """Raise UserError for an array that is not of the dtypes that weights have."""
    if dtype not in FLOATING:
        raise UserError(
            f"{path}: {name} is of {dtype}, and weights must be of {', '.join(FLOATING)}: "
            "multiply quantised weights by their scale first."
        )


def read(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], str | None]:
    """Read tensors as float32, by name, and the header's text `about`, None where there is none.

    wanted: whether a name is to be read. Raises TensorsError; UserError for quantised or complex numbers.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = (file.metadata() or {}).get(ABOUT)
            found = {name: file.get_tensor(name) for name in filter(wanted, file.keys())}
    except FileNotFoundError:
        raise TensorsError(f"{path} is missing") from None
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise TensorsError(f"{path} is no whole safetensors file ({reason:.100})") from None
    for name, tensor in found.items():
        require_floating(path, name, str(tensor.dtype).removeprefix("torch."))
    return {name: tensor.float() for name, tensor in found.items()}, about
