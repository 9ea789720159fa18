"""CUDA through its driver library by ctypes: memory, one stream, captured graphs. No package of CUDA is needed.

Names, argument types and error codes are those of the CUDA driver API's reference (docs.nvidia.com/cuda/cuda-driver-api). The
library comes with the driver, and a context of it that is the device's primary one is shared with TensorRT's own calls.
"""

import ctypes
import functools
import math
import threading
import weakref
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np

from ....errors import MissingError

LIBRARY = "libcuda.so.1"
MULTIPROCESSORS, COMPUTE_MAJOR, COMPUTE_MINOR = 16, 75, 76
"""CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, _COMPUTE_CAPABILITY_MAJOR and _MINOR."""

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: memory may be freed meanwhile, as when objects are collected

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (c_void_p,),
    "cuDeviceGetCount": (c_void_p,),
    "cuDeviceGet": (c_void_p, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (c_void_p, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (c_void_p, c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (c_void_p,),
    "cuMemAlloc_v2": (c_void_p, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemAllocHost_v2": (c_void_p, c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (c_void_p, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, c_void_p),
    "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, c_void_p),
    "cuGetErrorString": (c_int, c_void_p),
}


def load_driver() -> Any:
    """Load and start the driver's library.

    Raises:
        MissingError: there is no driver, or it finds no GPU.
    """
    try:
        driver = ctypes.CDLL(LIBRARY)
        for name, types in _SIGNATURES.items():
            getattr(driver, name).argtypes = types
    except OSError as error:
        raise MissingError(
            f"There is no NVIDIA GPU to use here: its driver's library {LIBRARY} does not load ({error}). Install the driver; on "
            "a Jetson it comes with JetPack, and a container must be started with --runtime nvidia."
        ) from error
    except AttributeError as error:
        raise MissingError(f"{LIBRARY} is too old: {error}. A driver for CUDA 12 or newer is needed.") from error
    if code := driver.cuInit(0):
        raise MissingError(
            f"There is no NVIDIA GPU to use here: the driver answers {_name_error(driver, code)}. See that the user may open "
            "/dev/nvidia* (on a Jetson /dev/nvmap: group video), and that a container is started with --runtime nvidia."
        )
    return driver


def _name_error(driver: Any, code: int) -> str:
    said = []
    for ask in (driver.cuGetErrorName, driver.cuGetErrorString):
        text = c_char_p()
        if ask(code, byref(text)) == 0 and text.value is not None:
            said.append(text.value.decode(errors="replace"))
    return f"{', '.join(said) or 'with error'} ({code})"


def count_gpus() -> int:
    """Return how many GPUs the driver finds.

    Raises:
        MissingError: none can be used.
    """
    driver, count = load_driver(), c_int()
    if code := driver.cuDeviceGetCount(byref(count)):
        raise MissingError(f"The NVIDIA driver does not count its GPUs: {_name_error(driver, code)}.")
    return count.value


def open_gpu(number: int) -> "Gpu":
    """Return a GPU by its number; the same each time, since all that runs on it shares its stream.

    Raises:
        MissingError: it is not here.
    """
    with _opening:
        if number not in _opened:
            count = count_gpus()
            if number >= count:
                raise MissingError(f"There is no GPU {number} here: the driver finds {count}, numbered from 0.")
            _opened[number] = Gpu(load_driver(), number)
        return _opened[number]


_opening = threading.RLock()
_opened: "dict[int, Gpu]" = {}


class GpuBlock:
    """Memory of a GPU for one tensor; `address` is what kernels see. Freed with the object."""

    def __init__(self, gpu: "Gpu", shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.bytes = math.prod(shape) * self.dtype.itemsize
        place = c_uint64()
        gpu.call("cuMemAlloc_v2", byref(place), max(self.bytes, 1))
        self.address: int = place.value
        _free_with(self, gpu, "cuMemFree_v2", self.address)


class Gpu:
    """A GPU, its primary context and the stream on which everything runs.

    Attributes:
        name, capability: such as `Orin` and `8.7`.
        multiprocessors: how many there are; boards whose GPUs have the same name differ in that.
        driver: the newest CUDA version that the driver serves, such as `12.6`.
        stream: the handle of the stream.
    """

    def __init__(self, driver: Any, number: int) -> None:
        self._driver = driver
        device, name, context, version = c_int(), ctypes.create_string_buffer(256), c_void_p(), c_int()
        self.call("cuDeviceGet", byref(device), number)
        self.call("cuDeviceGetName", name, len(name), device.value)
        numbers = [c_int(), c_int(), c_int()]
        for place, attribute in zip(numbers, (COMPUTE_MAJOR, COMPUTE_MINOR, MULTIPROCESSORS), strict=True):
            self.call("cuDeviceGetAttribute", byref(place), attribute, device.value)
        self.call("cuDriverGetVersion", byref(version))
        self.call("cuDevicePrimaryCtxRetain", byref(context), device.value)
        self.name = name.value.decode(errors="replace")
        self.capability = f"{numbers[0].value}.{numbers[1].value}"
        self.multiprocessors = numbers[2].value
        self.driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        self._context = context
        self.enter()
        self.stream: int = self._make_stream()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            MissingError: it fails, as for want of memory.
        """
        if code := getattr(self._driver, name)(*arguments):
            raise MissingError(f"The GPU fails: {name} answers {_name_error(self._driver, code)}.")

    def enter(self) -> None:
        """Make this GPU the current one of the calling thread."""
        if self._driver.cuCtxSetCurrent(self._context):
            self.call("cuCtxSetCurrent", self._context)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> GpuBlock:
        """Make room for a tensor on the GPU."""
        self.enter()
        return GpuBlock(self, shape, dtype)

    def pin(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array in memory that the GPU copies from and to without the processor's help."""
        self.enter()
        size = math.prod(shape) * np.dtype(dtype).itemsize
        place = c_void_p()
        self.call("cuMemAllocHost_v2", byref(place), max(size, 1))
        assert place.value is not None
        raw = (ctypes.c_char * max(size, 1)).from_address(place.value)
        _free_with(raw, self, "cuMemFreeHost", place.value)  # an array over it keeps it alive
        return np.frombuffer(raw, np.dtype(dtype), count=math.prod(shape)).reshape(shape)

    def upload(self, block: GpuBlock, pinned: np.ndarray, stream: int) -> None:
        """Start to copy an array of `pin` to the GPU."""
        self.call("cuMemcpyHtoDAsync_v2", block.address, pinned.ctypes.data, block.bytes, stream)

    def download(self, pinned: np.ndarray, block: GpuBlock, stream: int) -> None:
        """Start to copy from the GPU into an array of `pin`."""
        self.call("cuMemcpyDtoHAsync_v2", pinned.ctypes.data, block.address, block.bytes, stream)

    def wait(self) -> None:
        """Wait until everything on the stream is done.

        Raises:
            MissingError: some of it failed.
        """
        if code := self._driver.cuStreamSynchronize(self.stream):
            raise MissingError(f"The GPU fails: {_name_error(self._driver, code)}.")

    def capture(self, work: Callable[[int], object]) -> Callable[[], None] | None:
        """Record what a function puts on a stream; return what launches all of it at once on `stream`.

        The function must have run once before. It is recorded on a stream of its own, so that what other threads put on the
        shared one is not. None where something in it cannot be recorded.
        """
        with _opening:
            return self._capture(work)

    def _capture(self, work: Callable[[int], object]) -> Callable[[], None] | None:
        self.enter()
        stream, graph, ready = self._make_stream(), c_void_p(), c_void_p()
        try:
            if self._driver.cuStreamBeginCapture_v2(stream, RELAXED):
                return None
            try:
                work(stream)
            except Exception:  # whatever an engine raises where it cannot be captured
                self._driver.cuStreamEndCapture(stream, byref(graph))
                return None
            if self._driver.cuStreamEndCapture(stream, byref(graph)) or not graph.value:
                return None
            if self._driver.cuGraphInstantiateWithFlags(byref(ready), graph, 0):
                return None
        finally:
            if graph.value:
                self._driver.cuGraphDestroy(graph)
            self._driver.cuStreamDestroy_v2(stream)
        launch = functools.partial(self.call, "cuGraphLaunch", ready, self.stream)
        _free_with(launch, self, "cuGraphExecDestroy", ready)
        return launch

    def _make_stream(self) -> int:
        stream = c_void_p()
        self.call("cuStreamCreate", byref(stream), NON_BLOCKING)
        assert stream.value is not None
        return stream.value

    def free(self, name: str, what: Any) -> None:
        """Let go of something; nothing can be done where that fails."""
        self._driver.cuCtxPushCurrent_v2(self._context)  # whatever thread this is may be at work on another GPU
        getattr(self._driver, name)(what)
        self._driver.cuCtxPopCurrent_v2(byref(c_void_p()))


def _free_with(owner: Any, gpu: Gpu, name: str, what: Any) -> None:
    """Free something when its owner goes; at the end of the process the driver does."""
    weakref.finalize(owner, gpu.free, name, what).atexit = False
