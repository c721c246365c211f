"""Types of the extension module that vkbackend/device/native.cpp and vkbackend/gguf/pack.cpp build."""

from collections.abc import Sequence

import kp
import numpy as np

PACKED_FORMATS: frozenset[str]

def pack(
    format: str,
    raws: Sequence[np.ndarray],
    lanes: int,
    first_group: int,
    num_groups: int,
    quants: np.ndarray,
    scales: np.ndarray,
    num_threads: int,
    /,
) -> None: ...

class VulkanError(Exception): ...

class Context:
    def __init__(self, instance: int, physical: int, device: int, family: int, cache_data: bytes, /) -> None: ...
    def cache_data(self) -> bytes: ...
    def sequence(self) -> kp.Sequence: ...

class Memory:
    def __init__(self, context: Context, size: int, usage: int, wanted: list[int], /) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def is_mapped(self) -> bool: ...
    def make_pages(self, is_whole: bool, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Kernel:
    def __init__(
        self,
        context: Context,
        spirv: bytes,
        bindings: list[int],
        push_words: int,
        constants: dict[int, int],
        subgroup_size: int,
        /,
    ) -> None: ...

class Timestamps:
    def __init__(self, context: Context, count: int, /) -> None: ...
    def read(self) -> list[int]: ...

class OpDispatch(kp.OpBase):
    def __init__(
        self, kernel: Kernel, ranges: list[tuple[Memory, int, int]], groups: list[int], push: list[int], /
    ) -> None: ...

class OpBarrier(kp.OpBase):
    def __init__(self, from_stage: int, from_access: int, to_stage: int, to_access: int, /) -> None: ...

class OpCopy(kp.OpBase):
    def __init__(
        self, source: Memory, source_offset: int, target: Memory, target_offset: int, size: int, /
    ) -> None: ...

class OpTimestamp(kp.OpBase):
    def __init__(self, timestamps: Timestamps, index: int, /) -> None: ...

class OpCapture(kp.OpBase):
    def __init__(self) -> None: ...

class Submission:
    def __init__(self, context: Context, sequence: kp.Sequence, capture: OpCapture, /) -> None: ...
    def submit(self, limit_ns: int, /) -> None: ...
    def wait(self, limit_ns: int, /) -> None: ...
