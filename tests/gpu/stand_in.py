"""Tensors in host memory that report the device cuda:0: the GPU's paths run, with real numbers, without one.

    with gpus(count=1):
        trainer = Trainer(config, init_topology("cuda"), classes)

As strict as CUDA: an operation on such a tensor and on one of the CPU raises RuntimeError, and `.numpy()` of
such a tensor raises TypeError. With `nccl`, so does a collective of torch.distributed on a tensor of the CPU.
`LOG` counts the operations, which would be kernels, and names the places where the host would wait.

torch's FakeTensorMode cannot serve: in a build for the CPU autograd finds no accelerator.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
import types
import unittest.mock
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tests.launch import ROOT

CUDA = torch.device("cuda", 0)
IDS = tuple(f"GPU-{index}" for index in range(64))


class Log:
    """What ran on stand-ins."""

    def __init__(self) -> None:
        self.kernels: Counter[str] = Counter()
        """Operations that compute or copy, by name."""
        self.waits: Counter[str] = Counter()
        """Copies between host and GPU, and reads of a value, by kind and place in the code."""

    def clear(self) -> None:
        """Forget everything."""
        self.kernels.clear()
        self.waits.clear()


LOG = Log()


class State(threading.local):
    """Of one thread: what C++ code, which sees host memory, means by a device."""

    copying_to_host = False
    in_backward = False


STATE = State()


def place() -> str:
    """The innermost line of the project on the stack."""
    packages = tuple(str(ROOT / package) for package in ("trainer", "preprocess"))
    lines = [frame for frame in traceback.extract_stack() if frame.filename.startswith(packages)]
    return f"{lines[-1].filename.removeprefix(str(ROOT) + '/')}:{lines[-1].name}" if lines else "a test"


def is_gpu(device: Any) -> bool:
    """Whether this names a GPU."""
    return device is not None and torch.device(device).type == "cuda"


class GpuTensor(Tensor):
    """A tensor of host memory, `host`, that reports cuda:0."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> GpuTensor:
        """To C++ it is on the CPU, where no guard of a GPU is needed; Python sees `device`."""
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device="cpu",
        )
        return made

    def __init__(self, host: Tensor) -> None:
        self.host = host

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        """As torch's."""
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: GpuTensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.host = value.host

    def numpy(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy (at {place()})")

    __array__ = numpy  # type: ignore[assignment]

    def tolist(self) -> Any:
        LOG.waits[f"tolist at {place()}"] += 1
        return self.host.tolist()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def record_stream(self, stream: Any) -> None:
        """Nothing: there is one memory."""

    def cpu(self, *arguments: Any, **named: Any) -> Tensor:
        return self.to("cpu")

    def to(self, *arguments: Any, **named: Any) -> Tensor:
        """To the host through `ToHost`: to C++ both are on the CPU, and it would not copy."""
        given = list(arguments)
        device = named.pop("device", None)
        if given and isinstance(given[0], Tensor):
            device, given[0] = given[0].device, given[0].dtype
        elif given and (given[0] is None or isinstance(given[0], (str, torch.device))):
            device = given.pop(0)
        if device is None or is_gpu(device):
            return super().to(*given, **named)
        dtype = next((x for x in given if isinstance(x, torch.dtype)), named.get("dtype"))
        found: Tensor = ToHost.apply(self, dtype, named.get("non_blocking", False))
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class ToHost(torch.autograd.Function):
    """The copy of a stand-in in host memory; its gradient is a stand-in again."""

    @staticmethod
    def forward(ctx: Any, x: GpuTensor, dtype: torch.dtype | None, non_blocking: bool) -> Tensor:
        STATE.copying_to_host = True
        try:
            with torch.no_grad():
                return torch.ops.aten._to_copy.default(
                    x, dtype=dtype, device=torch.device("cpu"), non_blocking=non_blocking
                )
        finally:
            STATE.copying_to_host = False

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return GpuTensor(grad), None, None


FREE = {
    *(
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "as_strided",
        "expand",
        "permute",
        "t",
        "transpose",
        "squeeze",
    ),
    *("unsqueeze", "slice", "select", "narrow", "diagonal", "unfold", "split", "split_with_sizes", "chunk"),
    *("unbind", "detach", "alias", "set_", "lift_fresh", "is_pinned", "_local_scalar_dense"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}
"""Operations that start no kernel."""


def host_of(x: Any) -> Any:
    """The memory of a stand-in; anything else as it is."""
    return x.host if isinstance(x, GpuTensor) else x


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation: on stand-ins, or of a factory that was asked for a GPU. Raises as CUDA does."""
    name = func._overloadpacket.__name__
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    among = [x for x in tensors if isinstance(x, GpuTensor)]
    device = kwargs.get("device")
    plain = {k: v for k, v in kwargs.items() if k not in ("pin_memory", "device")}
    on_gpu = bool(among)
    if name == "_local_scalar_dense":
        LOG.waits[f"item at {place()}"] += 1
        return func(args[0].host)
    if name == "_to_copy":
        target = on_gpu if device is None else is_gpu(device)
        if on_gpu and not STATE.copying_to_host:
            target = True  # C++ names the CPU and means the same device
        if target != on_gpu:
            pinned = not target or getattr(args[0], "pinned", False)
            if not (plain.get("non_blocking") and pinned):
                LOG.waits[f"copy {'to' if target else 'from'} the GPU at {place()}"] += 1
        plain.pop("non_blocking", None)
        on_gpu = target
        plain["device"] = torch.device("cpu")
    elif name == "copy_":
        on_gpu = isinstance(args[0], GpuTensor)
        if on_gpu != isinstance(args[1], GpuTensor) and not (len(args) > 2 and args[2]):
            LOG.waits[f"copy {'to' if on_gpu else 'from'} the GPU at {place()}"] += 1
    else:
        if device is not None:
            on_gpu = on_gpu or is_gpu(device)
            plain["device"] = torch.device("cpu")
        others = [x for x in tensors if not isinstance(x, GpuTensor) and x.dim() > 0]
        if among and others:
            shapes = [f"{x.device} {list(x.shape)}" for x in tensors]
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func} of {shapes}, {place()}"
            )
        if name in ("nonzero", "masked_select", "equal", "is_nonzero"):
            LOG.waits[f"{name} at {place()}"] += 1
    out = func(*tree_map(host_of, args), **tree_map(host_of, plain))
    if on_gpu and name not in FREE:
        LOG.kernels[name] += 1
    if func._schema.is_mutable and isinstance(out, Tensor):
        return next(x for x in tensors if host_of(x) is out)
    if not on_gpu:
        return out
    return tree_map(lambda x: GpuTensor(x) if isinstance(x, Tensor) else x, out)


class Factories(TorchDispatchMode):
    """Makes tensors that are asked for on a GPU stand-ins. Each thread needs its own."""

    def __init__(self, nccl: bool) -> None:
        super().__init__()
        self.nccl = nccl

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        stand_ins = any(isinstance(x, GpuTensor) for x in tensors)
        if self.nccl and str(func).startswith("c10d.") and tensors and not stand_ins:
            raise RuntimeError(f"No backend type associated with device type cpu: {func} at {place()}")
        if STATE.in_backward and not tensors and "device" in kwargs:  # C++ makes a gradient
            kwargs = {**kwargs, "device": CUDA}
        if stand_ins or is_gpu(kwargs.get("device")):
            return run(func, args, kwargs)
        pinned = kwargs.pop("pin_memory", False)
        out = func(*args, **kwargs)
        if pinned:
            out.pinned = True
        return out


class Stream:
    """A CUDA stream whose work is always done."""

    device = CUDA

    def __init__(self, *arguments: Any) -> None: ...

    def synchronize(self) -> None:
        """The host waits."""
        LOG.waits[f"synchronize at {place()}"] += 1

    def wait_stream(self, other: Any) -> None:
        """The stream waits, not the host."""

    def wait_event(self, event: Event) -> None:
        """The stream waits, not the host."""

    def record_event(self) -> Event:
        """An event after the work so far."""
        event = Event()
        event.record()
        return event


class Event:
    """A CUDA event, on a GPU that takes a millisecond for each kernel, and on which the host never waits."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0

    def record(self, stream: Any = None) -> None:
        """After the kernels so far."""
        self.at = LOG.kernels.total()

    def synchronize(self) -> None:
        """The host waits."""
        LOG.waits[f"synchronize at {place()}"] += 1

    def elapsed_time(self, end: Event) -> float:
        """In milliseconds."""
        return float(end.at - self.at)


_backward = Tensor.backward


def backward(self: Tensor, *arguments: Any, **named: Any) -> None:
    """`Tensor.backward`, in which new tensors are on the device of the tensor."""
    before, STATE.in_backward = STATE.in_backward, isinstance(self, GpuTensor)
    try:
        _backward(self, *arguments, **named)
    finally:
        STATE.in_backward = before


@contextlib.contextmanager
def gpus(count: int = 1, nccl: bool = False, ids: tuple[str, ...] = IDS) -> Iterator[Log]:
    """torch as if this process saw so many GPUs; `ids`: their UUIDs. Returns the log, emptied."""
    cuda = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "set_device": lambda device: None,
        "get_device_properties": lambda device: types.SimpleNamespace(
            uuid=ids[torch.device(device).index or 0], name="stand-in", total_memory=80 << 30
        ),
        "is_bf16_supported": lambda including_emulation=True: True,
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda device=None: Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda device=None: LOG.waits.update([f"synchronize at {place()}"]),
        "current_device": lambda: 0,
        "_lazy_init": lambda: None,
    }
    in_thread = threading.Thread.run

    def with_factories(thread: threading.Thread) -> None:
        with Factories(nccl):
            in_thread(thread)

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        pinned.pinned = True  # type: ignore[attr-defined]
        return pinned

    swap = torch.__future__.get_overwrite_module_params_on_conversion()
    LOG.clear()
    start = torch.distributed.init_process_group
    with contextlib.ExitStack() as stack:
        if nccl:  # gloo carries what NCCL would
            join = unittest.mock.patch.object(
                torch.distributed, "init_process_group", lambda backend, **named: start("gloo", **named)
            )
            stack.enter_context(join)
            available = unittest.mock.patch.object(torch.distributed, "is_nccl_available", return_value=True)
            stack.enter_context(available)
        for name, value in cuda.items():
            stack.enter_context(unittest.mock.patch.object(torch.cuda, name, value))
        stack.enter_context(unittest.mock.patch.object(Tensor, "backward", backward))
        stack.enter_context(unittest.mock.patch.object(Tensor, "pin_memory", pin_memory))
        stack.enter_context(unittest.mock.patch.object(threading.Thread, "run", with_factories))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, swap)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # as between real devices
        stack.enter_context(Factories(nccl))
        yield LOG
