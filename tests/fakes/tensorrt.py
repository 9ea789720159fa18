"""A fake CUDA driver and a fake TensorRT, since there is no GPU here. ONNX Runtime computes what their GPU would.

They are strict: what is put on a stream happens only when it is waited for, memory that was freed cannot be read, calls need a
current context in their thread, and names that a version of TensorRT was not recorded to have do not exist.
"""

import base64
import json
import threading
from ctypes import memmove
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

RECORDED = {
    version: {name: members.split() for name, members in classes.items()}
    for version, classes in json.loads(Path(__file__).with_name("tensorrt_api.json").read_text()).items()
}
VERSIONS = [version for version in RECORDED if version[:2] in ("10", "11")]

INVALID_CONTEXT, NO_MEMORY, ILLEGAL_ADDRESS, NO_DEVICE, UNSUPPORTED_IN_CAPTURE = 201, 2, 700, 100, 900
NAMES = {
    INVALID_CONTEXT: b"CUDA_ERROR_INVALID_CONTEXT",
    NO_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    ILLEGAL_ADDRESS: b"CUDA_ERROR_ILLEGAL_ADDRESS",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE",
    UNSUPPORTED_IN_CAPTURE: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
}


class FakeDriver:
    """The calls of `offramp.runtime.engines.tensorrt.cuda`, on memory of this process.

    `fails` makes a call answer an error code."""

    def __init__(self, gpus=1):
        self.gpus, self.multiprocessors, self.fails, self.calls = gpus, 16, {}, []
        self.memory, self.streams, self.recording, self.graphs = {}, {}, {}, {}
        self._lock = threading.RLock()
        self.started, self._here, self._handles = False, threading.local(), iter(range(0x100, 1 << 30))

    def __getattr__(self, name):
        raise AttributeError(f"undefined symbol: {name}")

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if not name.startswith("cu") or name.startswith("cuGetError"):
            return found

        def call(*arguments):
            self.calls.append(name)
            if name in self.fails:
                return self.fails[name]
            without = ("cuInit", "cuDevice", "cuDriver", "cuCtx")
            if not name.startswith(without) and not getattr(self._here, "context", None):
                return INVALID_CONTEXT
            return found(*arguments) or 0

        return call

    def count(self, name):
        return self.calls.count(name)

    def read(self, address, size):
        return self.memory[address][:size]

    def put(self, stream, work):
        """Put work on a stream: recorded where it is being captured, else done when the stream is waited for."""
        (self.recording[stream] if stream in self.recording else self.streams[stream]).append(work)

    def cuInit(self, flags):
        self.started = self.gpus > 0
        return 0 if self.started else NO_DEVICE

    def cuGetErrorName(self, code, place):
        place._obj.value = NAMES.get(code, b"CUDA_ERROR_UNKNOWN")
        return 0

    def cuGetErrorString(self, code, place):
        place._obj.value = b"as the fake was told"
        return 0

    def cuDriverGetVersion(self, place):
        place._obj.value = 12060

    def cuDeviceGetCount(self, place):
        place._obj.value = self.gpus

    def cuDeviceGet(self, place, number):
        place._obj.value = number

    def cuDeviceGetName(self, place, size, device):
        place.value = b"Fake Orin"

    def cuDeviceGetAttribute(self, place, attribute, device):
        place._obj.value = {75: 8, 76: 7, 16: self.multiprocessors}[attribute]

    def cuDevicePrimaryCtxRetain(self, place, device):
        place._obj.value = 0xC0 + device

    def cuCtxSetCurrent(self, context):
        self._here.context = context.value

    def cuCtxPushCurrent_v2(self, context):
        self._here.before = getattr(self._here, "context", None)
        self._here.context = context.value

    def cuCtxPopCurrent_v2(self, place):
        self._here.context = self._here.before

    def cuMemAlloc_v2(self, place, size):
        block = np.full(size, 0xAA, np.uint8)
        place._obj.value = block.ctypes.data
        self.memory[block.ctypes.data] = block

    def cuMemFree_v2(self, address):
        del self.memory[address]

    cuMemAllocHost_v2, cuMemFreeHost = cuMemAlloc_v2, cuMemFree_v2

    def _copy(self, to, source, size, stream):
        if to not in self.memory or source not in self.memory or size > len(self.memory[to]):
            return ILLEGAL_ADDRESS
        return self.put(stream, lambda: memmove(to, source, size))

    cuMemcpyHtoDAsync_v2, cuMemcpyDtoHAsync_v2 = _copy, _copy

    def cuStreamCreate(self, place, flags):
        place._obj.value = next(self._handles)
        self.streams[place._obj.value] = []

    def cuStreamDestroy_v2(self, stream):
        del self.streams[stream]

    def cuStreamSynchronize(self, stream):
        if stream in self.recording:
            return UNSUPPORTED_IN_CAPTURE
        with self._lock:
            try:
                while self.streams[stream]:
                    self.streams[stream].pop(0)()
            except KeyError:  # memory that was freed
                return ILLEGAL_ADDRESS

    def cuStreamBeginCapture_v2(self, stream, mode):
        self.recording[stream] = []

    def cuStreamEndCapture(self, stream, graph):
        graph._obj.value = next(self._handles)
        self.graphs[graph._obj.value] = self.recording.pop(stream)

    def cuGraphInstantiateWithFlags(self, place, graph, flags):
        place._obj.value = next(self._handles)
        self.graphs[place._obj.value] = self.graphs[graph.value]

    def cuGraphLaunch(self, graph, stream):
        for work in self.graphs[graph.value]:
            self.put(stream, work)

    def cuGraphDestroy(self, graph):
        del self.graphs[graph.value]

    cuGraphExecDestroy = cuGraphDestroy


def make_tensorrt(version, driver, *, dla=0, on_dla=("Conv", "Relu", "MaxPool")):
    """Make a module as TensorRT's of a version: strict about names, computing by ONNX Runtime in the fake driver's memory.

    Args:
        version: one of `RECORDED`.
        driver: the fake driver.
        dla: how many DLA cores there are.
        on_dla: the operators that they run.
    """
    import onnx
    import onnxruntime as ort

    api = RECORDED[version]
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.timings = []  # with what each build began
    trt.refuse, trt.no_room, trt.no_capture, trt.all_on_gpu = None, False, False, False  # what a test makes go wrong

    class Strict:
        """Offers, and takes, only what was recorded."""

        def __getattribute__(self, name):
            kind = next((c.__name__ for c in type(self).__mro__ if c.__name__ in api), None)
            if kind is not None and name[0] != "_" and name not in api[kind]:
                raise AttributeError(f"{kind} of TensorRT {version} has no {name}")
            return super().__getattribute__(name)

        def __setattr__(self, name, value):
            kind = type(self).__name__
            if kind in api and name[0] != "_" and name not in api[kind]:
                raise AttributeError(f"{kind} of TensorRT {version} has no {name}")
            super().__setattr__(name, value)

    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "DeviceType", "TensorIOMode", "TensorLocation"):
        setattr(trt, name, SimpleNamespace(**{m: k for k, m in enumerate(api.get(name, ())) if m.isupper()}))
    trt.LayerType = SimpleNamespace(CONSTANT="Constant")

    class ILogger:
        INTERNAL_ERROR, ERROR = 0, 1

    def check_start():
        if not driver.started:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    class Builder(Strict):
        def __init__(self, logger):
            check_start()
            self._log = logger

        def create_network(self, flags):
            return INetworkDefinition(flags)

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            assert isinstance(config._cache, ITimingCache) and config._profile is not None
            if trt.refuse:
                self._log.log(ILogger.ERROR, trt.refuse)
                return None
            config._cache._content = b"timings learnt"
            if getattr(config, "default_device_type", None) == trt.DeviceType.DLA:
                for node in network._nodes:
                    where = "Dla" if node.op_type in on_dla and not trt.all_on_gpu else "Gpu"
                    self._log.log(2, f"[{where}Layer] {node.name}")
            graph = base64.b64encode(onnx.load(network._path).SerializeToString()).decode()  # weights included
            plan = {"graph": graph, "outputs": [o.name for o in network._outputs]}
            plan |= {"shapes": config._profile._shapes, "typed": network._flags != 0, "flags": sorted(config._flags)}
            return json.dumps(plan).encode()

    class INetworkDefinition(Strict):
        def __init__(self, flags):
            self._flags, self._path, self._outputs, self._nodes = flags, None, [], []

        @property
        def num_outputs(self):
            return len(self._outputs)

        def get_output(self, i):
            return self._outputs[i]

        def unmark_output(self, tensor):
            self._outputs.remove(tensor)

        @property
        def num_layers(self):
            return len(self._nodes)

        def get_layer(self, i):
            return SimpleNamespace(name=self._nodes[i].name, type=self._nodes[i].op_type)

    class OnnxParser(Strict):
        def __init__(self, network, logger):
            self._network = network

        def parse_from_file(self, path):
            graph = onnx.load(path, load_external_data=False).graph
            self._network._path, self._network._nodes = path, list(graph.node)
            self._network._outputs = [SimpleNamespace(name=value.name) for value in graph.output]
            return True

    class IOptimizationProfile(Strict):
        def __init__(self):
            self._shapes = {}

        def set_shape(self, name, least, best, most):
            assert least == best == most
            self._shapes[name] = list(best)

    class ITimingCache(Strict):
        def __init__(self, content):
            self._content = content

        def serialize(self):
            return self._content

    class IBuilderConfig(Strict):
        def __init__(self):
            self._flags, self._profile, self._cache = {"TF32"}, None, None

        def add_optimization_profile(self, profile):
            self._profile = profile

        def set_flag(self, flag):
            self._flags.add(next(name for name, value in vars(trt.BuilderFlag).items() if value == flag))

        def clear_flag(self, flag):
            self._flags.discard(next(name for name, value in vars(trt.BuilderFlag).items() if value == flag))

        def create_timing_cache(self, content):
            return None if content == b"damaged" else ITimingCache(content)

        def set_timing_cache(self, cache, ignore_mismatch):
            if cache._content not in (b"", b"timings learnt"):
                return False
            trt.timings.append(cache._content)
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

        def can_run_on_DLA(self, layer):
            return layer.type in on_dla

    class Runtime(Strict):
        def __init__(self, logger):
            check_start()
            self._log = logger

        @property
        def num_DLA_cores(self):
            return dla

        DLA_core = -1

        def deserialize_cuda_engine(self, plan):
            try:
                return ICudaEngine(json.loads(plan))
            except ValueError:
                self._log.log(ILogger.ERROR, "Magic tag does not match")
                return None

    class ICudaEngine(Strict):
        def __init__(self, plan):
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            graph = base64.b64decode(plan["graph"])
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            self._inputs = list(plan["shapes"])
            self._outputs = plan["outputs"]
            self._plan = plan
            zeros = {n: np.zeros(s, self._dtype(n)) for n, s in plan["shapes"].items()}
            made = self._session.run(self._outputs, zeros)
            arrays = zeros | dict(zip(self._outputs, made, strict=True))
            self._shapes = {name: array.shape for name, array in arrays.items()}
            self._dtypes = {name: array.dtype for name, array in arrays.items()}

        def _dtype(self, name):
            kind = next(value.type for value in self._session.get_inputs() if value.name == name)
            return np.dtype({"float": "float32", "double": "float64"}.get(kind[7:-1], kind[7:-1]))

        @property
        def num_io_tensors(self):
            return len(self._shapes)

        def get_tensor_name(self, i):
            return list(self._shapes)[i]

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name in self._inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_location(self, name):
            return trt.TensorLocation.DEVICE

        def get_tensor_dtype(self, name):
            return self._dtypes[name]

        def get_tensor_shape(self, name):
            return self._shapes[name]

        def create_execution_context(self):
            return None if trt.no_room else IExecutionContext(self)

    class IExecutionContext(Strict):
        def __init__(self, engine):
            self._engine, self._addresses, self._set, self._warm = engine, {}, set(), False

        def set_input_shape(self, name, shape):
            self._set.add(name)
            return tuple(shape) == tuple(self._engine._shapes[name])

        def get_tensor_shape(self, name):
            assert self._set == set(self._engine._inputs)
            return self._engine._shapes[name]

        def set_tensor_address(self, name, address):
            self._addresses[name] = address
            return True

        def execute_async_v3(self, stream):
            engine = self._engine
            if set(self._addresses) != set(engine._shapes) or (stream in driver.recording and not self._warm):
                return False
            if stream in driver.recording and trt.no_capture:
                return False
            self._warm = True

            def work():
                inputs = {}
                for name in engine._inputs:
                    array = np.zeros(engine._shapes[name], engine._dtypes[name])
                    array.reshape(-1).view(np.uint8)[...] = driver.read(self._addresses[name], array.nbytes)
                    inputs[name] = array
                for name, array in zip(engine._outputs, engine._session.run(engine._outputs, inputs), strict=True):
                    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                    driver.read(self._addresses[name], array.nbytes)[...] = raw

            driver.put(stream, work)
            return True

    for kind in (Builder, OnnxParser, Runtime, ILogger):
        setattr(trt, kind.__name__, kind)
    trt.nptype = lambda dtype: dtype
    return trt
