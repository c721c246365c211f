"""One opened device: its queue, its memory, its kernels.

In: a `DeviceInfo` from `discover`. Out: `Device`, from which buffers, kernels and programs are made. Several threads
(engines, loads) may use one: the queue and the memory for copies are locked; what a thread allocates and records is
its own.
"""

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np

from .. import _native
from ..errors import NoDevice, OutOfMemory
from . import vulkan
from . import vulkan_constants as vk
from .buffers import Buffer
from .discover import FEATURE_STRUCTS, DeviceInfo, DeviceType, current_free_memory, feature_chain
from .failures import translated
from .shaders import KernelCache

LOCAL = vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
VISIBLE = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT
COHERENT = vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
CACHED = vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
USAGE = (
    vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT
    | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
    | vk.VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT
    | vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT
)
UPLOAD_BYTES = 16 << 20
SMALLEST_COUNTERS = 4096  # bytes: enough for most models' decode steps


class Device:
    """A Vulkan device opened with every feature that `discover.FEATURES` knows and it has.

    info: its `DeviceInfo`. is_unified: the host writes weights in place (integrated, CPU); otherwise they go through
    a ring. force_discrete: treat any device as a GPU with memory of its own, which the host cannot see: it gets a
    GPU's kernels, too. Raises DeviceError where the driver refuses, NoDevice where the device is gone.
    """

    def __init__(self, info: DeviceInfo, *, force_discrete: bool = False):
        self.info = info = replace(info, type=DeviceType.DISCRETE) if force_discrete else info
        self.is_unified = info.is_unified
        self._force_discrete = force_discrete
        self.flavor = info.flavors[0]  # which family of kernel variants ops choose; `check` runs the others too
        self.lanes = info.subgroup_size  # subgroup size that they ask for
        self.allocated_bytes = self.peak_bytes = 0  # now, and at the most until now
        self.queue_lock = threading.Lock()  # of vkQueueSubmit
        self._copy_lock = threading.Lock()  # of the two rings
        self.is_lost = False  # a step of this device timed out, or the driver reset it
        self._context, self._physical = _open(info)
        self.kernels = KernelCache(self)
        self._staging = None
        self._readback = None
        self._counters = None
        self._hidden = weakref.WeakSet()  # mapped memory that `force_discrete` makes believe the host cannot see

    def supports(self, feature: str) -> bool:
        return feature in self.info.features

    def free_memory(self, wanted: int = 0) -> int:
        """Bytes that may be taken now: what the driver says, or, where it says nothing, what was not allocated here.

        Where that is less than `wanted`, memory of things that nobody holds any more, such as a runner given up, is
        let go of first.
        """
        free = self._free_memory()
        if free < wanted:
            gc.collect()  # graphs and their values hold each other, so their memory waits for the collector
            free = self._free_memory()
        return free

    def _free_memory(self) -> int:
        return free_beside(current_free_memory(self._physical, self.info), self.info.memory_total, self.allocated_bytes)

    def memory(self, num_bytes: int, kind: str) -> "_native.Memory":
        """Allocate. kind: `device` (fastest for the device; host-visible too on unified devices), `step` (host
        writes, device reads), `readback` (device writes, host reads: cached). Raises OutOfMemory.
        """
        wanted = {
            "device": [LOCAL | VISIBLE | COHERENT, VISIBLE | COHERENT] if self.is_unified else [LOCAL, 0],
            "step": [LOCAL | VISIBLE | COHERENT, VISIBLE | COHERENT],
            "readback": [VISIBLE | COHERENT | CACHED, VISIBLE | COHERENT],
        }[kind]
        if num_bytes > self.info.memory_total:
            raise OutOfMemory(
                f"{self.info.name}: {num_bytes} bytes asked for, the device has {self.info.memory_total} in all"
            )
        with translated(f"{self.info.name}: allocating {num_bytes} bytes"):
            try:
                memory = _native.Memory(self._context, num_bytes, USAGE, wanted)
            except _native.VulkanError:
                gc.collect()
                memory = _native.Memory(self._context, num_bytes, USAGE, wanted)
        self.allocated_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.allocated_bytes)
        weakref.finalize(memory, self._freed, num_bytes)
        if kind == "device" and self._force_discrete:
            self._hidden.add(memory)
        return memory

    def _freed(self, num_bytes: int) -> None:
        self.allocated_bytes -= num_bytes

    def counters(self, count: int) -> Buffer:
        """At least `count` uint32 that are 0 whenever no dispatch runs: a kernel that counts in them leaves them so.
        All share them, so a dispatch must name them among its writes. Raises OutOfMemory.
        """
        if self._counters is None or self._counters.num_bytes < 4 * count:
            size = max(4 * count, SMALLEST_COUNTERS)
            self._counters = Buffer(
                self.memory(size, "device"), 0, size
            )  # what was recorded with smaller ones keeps those
            self.upload(self._counters, np.zeros(size, np.uint8))
        return self._counters

    def _is_visible(self, memory) -> bool:
        return memory.is_mapped and memory not in self._hidden

    @property
    def ring_bytes(self) -> int:
        """Of the memory through which host and device copy to each other; it is made on first use and stays."""
        return sum(memory.size for memory in (self._staging, self._readback) if memory is not None)

    def upload(self, buffer, array: np.ndarray) -> None:
        """Copy `array`'s bytes to the start of `buffer`, wherever it lies."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if data.nbytes > buffer.num_bytes:
            raise ValueError(f"{data.nbytes} bytes do not fit a buffer of {buffer.num_bytes}")
        if self._is_visible(buffer.memory):
            buffer.array(np.uint8, data.shape)[:] = data
            return
        with self._copy_lock:
            if self._staging is None:
                self._staging = self.memory(UPLOAD_BYTES, "step")
            staging = np.frombuffer(self._staging, np.uint8)
            for at in range(0, data.nbytes, UPLOAD_BYTES):
                part = data[at : at + UPLOAD_BYTES]
                staging[: part.nbytes] = part
                self._copy(self._staging, 0, buffer.memory, buffer.offset + at, part.nbytes)

    def download(self, buffer, dtype, shape) -> np.ndarray:
        """The start of `buffer` as a fresh array, wherever it lies."""
        count = int(np.prod(shape))
        num_bytes = count * np.dtype(dtype).itemsize
        if self._is_visible(buffer.memory):
            return buffer.array(dtype, shape).copy()
        out = np.empty(num_bytes, np.uint8)
        with self._copy_lock:
            if self._readback is None:
                self._readback = self.memory(UPLOAD_BYTES, "readback")
            source = np.frombuffer(self._readback, np.uint8)
            for at in range(0, num_bytes, UPLOAD_BYTES):
                part = min(UPLOAD_BYTES, num_bytes - at)
                self._copy(buffer.memory, buffer.offset + at, self._readback, 0, part)
                out[at : at + part] = source[:part]
        return out.view(dtype).reshape(shape)

    def _copy(self, source, source_offset, target, target_offset, num_bytes):
        from .dispatch import Recorder

        recorder = Recorder(self)
        recorder.copy(source, source_offset, target, target_offset, num_bytes)
        recorder.finish().run()

    def renew(self) -> None:
        """Open a lost device again. What was made on it before stays of no use. Raises what opening it raises."""
        if self.is_lost:
            self._staging = self._readback = self._counters = None
            self.kernels.clear()
            self._context, self._physical = _open(self.info)
            self.is_lost = False

    def close(self) -> None:
        """Save the pipeline cache and let go of everything made here that nobody else holds."""
        self.kernels.save()
        self.kernels.clear()
        self._staging = self._readback = self._counters = None


def _open(info: DeviceInfo) -> tuple:
    """-> (_native.Context, VkPhysicalDevice): the context owns the instance and the device, the handle is good for
    as long as it lives.
    """
    ffi, lib = vulkan.load()
    instance = vulkan.new_instance()
    try:
        for physical in vulkan.physical_devices(instance):
            properties = vulkan.struct("VkPhysicalDeviceIDProperties")
            lib.vkGetPhysicalDeviceProperties2(physical, vulkan.struct("VkPhysicalDeviceProperties2", next_=properties))
            if bytes(properties.deviceUUID).hex() == info.uuid:
                break
        else:
            raise NoDevice(f"{info.name} (uuid {info.uuid}) is no longer there; see `vkbackend devices`")
        device = _create(physical, info)
    except BaseException:
        lib.vkDestroyInstance(instance, ffi.NULL)
        raise
    from .shaders import load_pipeline_cache

    context = _native.Context(
        vulkan.address(instance),
        vulkan.address(physical),
        vulkan.address(device),
        info.compute_family,
        load_pipeline_cache(info),
    )
    return context, physical


def _create(physical, info: DeviceInfo):
    ffi, lib = vulkan.load()
    basic = ffi.new("VkPhysicalDeviceProperties*")
    lib.vkGetPhysicalDeviceProperties(physical, basic)
    features, structs = feature_chain(physical, basic.apiVersion, info.extensions)
    # Bounds checks on every access cost time and hide faults; everything else that the driver offers is left on.
    features.features.robustBufferAccess = 0
    wanted = []
    for _, minor, name in FEATURE_STRUCTS:
        if info.api[1] < minor and name in info.extensions:
            wanted.append(ffi.new("char[]", name.encode()))
    names = ffi.new("char*[]", wanted)
    priority = ffi.new("float[]", [1.0])
    queue = vulkan.struct(
        "VkDeviceQueueCreateInfo", queueFamilyIndex=info.compute_family, queueCount=1, pQueuePriorities=priority
    )
    create = vulkan.struct(
        "VkDeviceCreateInfo",
        next_=features,
        queueCreateInfoCount=1,
        pQueueCreateInfos=queue,
        enabledExtensionCount=len(wanted),
        ppEnabledExtensionNames=names,
    )
    device = ffi.new("VkDevice*")
    vulkan.check(lib.vkCreateDevice(physical, create, ffi.NULL, device), f"{info.name}: vkCreateDevice")
    return device[0]


def free_beside(free: int, total: int, taken: int) -> int:
    """A device's free bytes: what is left of the whole beside what was taken here, or what its driver says where
    that is less. A driver that does not see what was allocated a moment ago says too much.
    """
    return min(free, max(0, total - taken))
