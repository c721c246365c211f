"""The threads of an executor: a pool of ggml."""

import ctypes
import weakref
from types import ModuleType

MAX_THREADS = 512  # that ggml can handle


class Pool:
    """Threads that wait for graphs, asleep. Only one thread may use a pool at a time."""

    def __init__(self, ggml: ModuleType, num_threads: int):
        self.num_threads = min(num_threads, MAX_THREADS)
        parameters = ggml.ggml_threadpool_params_default(self.num_threads)
        parameters.poll = 0  # idle threads sleep at once
        self.handle = ggml.ggml_threadpool_new(ctypes.byref(parameters))
        if not self.handle:
            raise MemoryError("ggml_threadpool_new failed")
        weakref.finalize(self, ggml.ggml_threadpool_free, self.handle)
