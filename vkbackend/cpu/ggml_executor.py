"""The executor of the CPU path on ggml. Import it only after `library.ggml` has found the library and the kernels."""

from collections.abc import Collection
from types import ModuleType

from ..graph.builder import Graph
from ..graph.cache import CacheStorage
from ..graph.host_executor import HostExecutor
from ..graph.model import Model
from .lowering import lower
from .memory import Memory
from .pool import Pool
from .program import Program
from .threads import usable_threads


class GgmlExecutor(HostExecutor):
    """Runs steps as ggml graphs, on threads of its own. own_products: see `Program`. num_threads: see
    `usable_threads`.
    """

    def __init__(
        self,
        library: ModuleType,
        model: Model,
        cache: CacheStorage,
        keep: bool = False,
        num_threads: int = 0,
        own_products: Collection[str] = (),
    ):
        super().__init__(model, cache, keep)
        self._library = library
        self._pool = Pool(library, usable_threads(num_threads))
        self._memory = Memory()
        self._own_products = own_products

    def prepare(self, graph: Graph) -> Program:
        """Turn a graph into ggml graphs. Programs that refer to outgrown memory are dropped."""
        version = self._memory.version
        program = Program(self._library, self._pool, graph, self._memory, self.keep, self._own_products)
        lower(program)
        if self._memory.version != version:
            self._plans.clear()
            return self.prepare(graph)
        return program
