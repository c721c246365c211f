"""One opened device: its queue, its memory, its kernels.

In: a `DeviceInfo` from `discover`. Out: `Device`, from which buffers, kernels and programs are made. Several threads
(engines, loads) may use one device: its queue and its memory for copies are locked; allocations and recordings belong
to the thread that made them.
"""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from .. import _native
from ..errors import DeviceLost, NoDevice, OutOfMemory
from . import vulkan
from . import vulkan_constants as vk
from .buffers import Buffer
from .device_info import DeviceInfo, DeviceType
from .discover import FEATURE_STRUCTS, current_free_memory, feature_chain
from .dispatch import Recorder
from .failures import translated
from .kernel_cache import KernelCache, load_pipeline_cache
from .lanes import DEFAULT, LaneRule
from .upload_ring import PIECE_BYTES, UploadRing
from .vulkan import CData

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
READBACK_BYTES = 16 << 20
# For copies between host and device, on devices whose memory the host cannot write.
RING_BYTES = 2 * PIECE_BYTES + READBACK_BYTES
CAN_MAKE_PAGES = hasattr(_native.Memory, "make_pages")  # false if the extension was built from older sources
SMALLEST_COUNTERS = 4096  # bytes; enough for the decode steps of most models


class Device:
    """A Vulkan device, opened with every feature of `device_info.FEATURES` that it has.

    is_unified: the host writes weights in place (integrated, CPU); otherwise they go through a ring.
    force_discrete: treat any device as a GPU with memory of its own, which the host cannot see, and with a GPU's
        kernels.
    is_lost: a step timed out, or the driver reset the device; see `reopen_if_lost`.
    Raises DeviceError if the driver refuses, NoDevice if the device is gone.
    """

    def __init__(self, info: DeviceInfo, *, force_discrete: bool = False):
        self._is_cpu = info.type is DeviceType.CPU
        self.info = info = replace(info, type=DeviceType.DISCRETE) if force_discrete else info
        self.is_unified = info.is_unified
        self._force_discrete = force_discrete
        self.flavor = info.flavors[0]  # family of kernel variants that ops choose; `check` runs the others as well
        self.lanes = info.lanes  # subgroup size that most kernels require; `check` tries the others as well
        self.allocated_bytes = self.peak_bytes = 0  # peak_bytes: the largest so far
        self.queue_lock = threading.Lock()  # of vkQueueSubmit
        self._readback_lock = threading.Lock()
        self._reopen_lock = threading.Lock()
        self.is_lost = False
        self.generation = 0  # how often the device was reopened; buffers and programs belong to one generation
        self._context, self._physical = _open(info)
        self.kernels = KernelCache(self)
        self._upload_ring = UploadRing(self)
        self._readback: _native.Memory | None = None
        self._counters: Buffer | None = None
        self._memories: weakref.WeakSet[_native.Memory] = weakref.WeakSet()  # of this generation
        self._hidden: weakref.WeakSet[_native.Memory] = (
            weakref.WeakSet()
        )  # mapped, but treated as invisible to the host

    @property
    def lane_rule(self) -> LaneRule:
        """The driver's rule, which is for the lanes of `info`; DEFAULT while `check` tries others."""
        return self.info.lane_rule if self.lanes == self.info.lanes else DEFAULT

    def supports(self, feature: str) -> bool:
        """Whether the device has a feature of `device_info.FEATURES`, or a size of cooperative matrices."""
        return feature in self.info.features

    def free_memory(self, wanted: int = 0) -> int:
        """Bytes that can be allocated now: as the driver reports, or, if it reports nothing, all that was not allocated
        here.

        If that is less than `wanted`, memory of unreachable objects, such as a discarded runner, is freed first.
        """
        free = self._free_memory()
        if free < wanted:
            gc.collect()  # graphs and their values form reference cycles
            free = self._free_memory()
        return free

    def _free_memory(self) -> int:
        return free_bytes(current_free_memory(self._physical, self.info), self.info.memory_total, self.allocated_bytes)

    def memory(self, num_bytes: int, kind: str) -> "_native.Memory":
        """Allocate. kind: `device` (fastest for the device; on unified devices also visible to the host), `weights`
        (the same, for memory that is filled at once: a CPU device's gets huge pages), `step` (host writes, device
        reads) or `readback` (device writes, host reads: cached). Raises OutOfMemory.
        """
        on_device = [LOCAL | VISIBLE | COHERENT, VISIBLE | COHERENT] if self.is_unified else [LOCAL, 0]
        wanted = {
            "device": on_device,
            "weights": on_device,
            "step": [LOCAL | VISIBLE | COHERENT, VISIBLE | COHERENT],
            "readback": [VISIBLE | COHERENT | CACHED, VISIBLE | COHERENT],
        }[kind]
        if num_bytes > self.info.memory_total:
            raise OutOfMemory(
                f"{self.info.name}: {num_bytes} bytes requested, the device has {self.info.memory_total} in total"
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
        self._memories.add(memory)
        if kind in ("device", "weights") and self._force_discrete:
            self._hidden.add(memory)
        if kind == "weights" and self._is_cpu and CAN_MAKE_PAGES:
            memory.make_pages(memory in self._hidden)  # packing makes the others that it writes
        return memory

    def _freed(self, num_bytes: int) -> None:
        self.allocated_bytes -= num_bytes

    def check_current(self, memory: _native.Memory) -> None:
        """Raise DeviceLost if `memory` was allocated before the device was reopened: the driver's new device must not
        use it.
        """
        if memory not in self._memories:
            raise DeviceLost(
                f"{self.info.name} was lost and opened again: this buffer was made before; load the model again"
            )

    def counters(self, count: int) -> Buffer:
        """At least `count` uint32 that are 0 whenever no dispatch runs: a kernel that counts in them resets them. All
        dispatches share them, so they must be among a dispatch's writes. Raises OutOfMemory.
        """
        if self._counters is None or self._counters.num_bytes < 4 * count:
            size = max(4 * count, SMALLEST_COUNTERS)
            counters = Buffer(self.memory(size, "device"), 0, size)  # recordings with the smaller ones keep those
            self.upload(counters, np.zeros(size, np.uint8))
            self._counters = counters
        return self._counters

    def _is_visible(self, memory: _native.Memory) -> bool:
        return memory.is_mapped and memory not in self._hidden

    @property
    def ring_bytes(self) -> int:
        """Bytes of the memory through which host and device copy to each other; allocated on first use, then kept."""
        readback = self._readback.size if self._readback is not None else 0
        return self._upload_ring.num_bytes + readback

    def upload(self, buffer: Buffer, array: np.ndarray) -> None:
        """Copy `array`'s bytes to the start of `buffer`. Raises ValueError if they do not fit."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if data.nbytes > buffer.num_bytes:
            raise ValueError(f"{data.nbytes} bytes do not fit a buffer of {buffer.num_bytes}")
        if self._is_visible(buffer.memory):
            buffer.array(np.uint8, data.shape)[:] = data
            return
        for at in range(0, data.nbytes, PIECE_BYTES):
            part = data[at : at + PIECE_BYTES]
            self._upload_ring.write([buffer.slice(at, part.nbytes)], partial(_copy_into, part))
        self.finish_uploads()

    def write(self, buffers: Sequence[Buffer], fill: Callable[[list[np.ndarray]], None]) -> None:
        """Let `fill` write the bytes of each of `buffers`: in place if the host sees their memory, else in the upload
        ring, from which the device copies them after this has returned. Programs that are submitted later see them.

        Larger pieces than `upload_ring.PIECE_BYTES` make the ring grow. Raises OutOfMemory, DeviceLost, DeviceError.
        """
        if all(self._is_visible(buffer.memory) for buffer in buffers):
            fill([buffer.array(np.uint8, (buffer.num_bytes,)) for buffer in buffers])
        else:
            self._upload_ring.write(buffers, fill)

    def finish_uploads(self) -> None:
        """Wait until the device has copied everything that was written. Raises DeviceLost, DeviceError."""
        self._upload_ring.finish()

    def download(self, buffer: Buffer, dtype: DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
        """Copy the start of `buffer` into a new array."""
        count = int(np.prod(shape))
        num_bytes = count * np.dtype(dtype).itemsize
        if self._is_visible(buffer.memory):
            return buffer.array(dtype, shape).copy()
        out = np.empty(num_bytes, np.uint8)
        with self._readback_lock:
            if self._readback is None:
                self._readback = self.memory(READBACK_BYTES, "readback")
            source = np.frombuffer(memoryview(self._readback), np.uint8)
            for at in range(0, num_bytes, READBACK_BYTES):
                part = min(READBACK_BYTES, num_bytes - at)
                self._copy(buffer.memory, buffer.offset + at, self._readback, 0, part)
                out[at : at + part] = source[:part]
        return out.view(dtype).reshape(shape)

    def _copy(
        self, source: _native.Memory, source_offset: int, target: _native.Memory, target_offset: int, num_bytes: int
    ) -> None:
        recorder = Recorder(self)
        recorder.copy(source, source_offset, target, target_offset, num_bytes)
        recorder.finish().run()

    def reopen_if_lost(self) -> None:
        """Open the device again if it was lost; does nothing otherwise. Every call that starts from data of the host
        (run_shader, run_op, loading a model) does this first.

        Buffers, kernels and programs made before stay unusable. Raises what opening the device raises.
        """
        with self._reopen_lock:
            if not self.is_lost:
                return
            self._drop_all()
            self._memories.clear()
            self._context, self._physical = _open(self.info)
            self.generation += 1
            self.is_lost = False

    def _drop_all(self) -> None:
        self.kernels.clear()
        self._upload_ring.clear()
        self._readback = self._counters = None

    def close(self) -> None:
        """Save the pipeline cache and drop the references to all that was made here."""
        self.kernels.save()
        self._drop_all()


def _copy_into(data: np.ndarray, views: list[np.ndarray]) -> None:
    views[0][:] = data


def _open(info: DeviceInfo) -> tuple[_native.Context, CData]:
    """-> (context, VkPhysicalDevice). The context owns the instance and the device; the handle is valid as long as the
    context lives.
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
    context = _native.Context(
        vulkan.address(instance),
        vulkan.address(physical),
        vulkan.address(device),
        info.compute_family,
        load_pipeline_cache(info),
    )
    return context, physical


def _create(physical: CData, info: DeviceInfo) -> CData:
    """A VkDevice with one compute queue."""
    ffi, lib = vulkan.load()
    basic = vulkan.new("VkPhysicalDeviceProperties*")
    lib.vkGetPhysicalDeviceProperties(physical, basic)
    features, structs = feature_chain(physical, basic.apiVersion, info.extensions)
    # Bounds checks on every access cost time and hide faults; all other features that the driver offers stay enabled.
    features.features.robustBufferAccess = 0
    wanted = []
    for _, minor, name in FEATURE_STRUCTS:
        if info.api[1] < minor and name in info.extensions:
            wanted.append(vulkan.new("char[]", name.encode()))
    names = vulkan.new("char*[]", wanted)
    priority = vulkan.new("float[]", [1.0])
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
    device = vulkan.new("VkDevice*")
    vulkan.check(lib.vkCreateDevice(physical, create, ffi.NULL, device), f"{info.name}: vkCreateDevice")
    return device[0]


def free_bytes(reported: int, total: int, allocated: int) -> int:
    """A device's free bytes: the total less what was allocated here, or what its driver reports if that is less. A
    driver that does not see recent allocations reports too much.
    """
    return min(reported, max(0, total - allocated))
