"""Chooses how the CPU runs its share of a model: on ggml where it is installed, otherwise on numpy."""

from ..graph.cache import CacheStorage
from ..graph.host_executor import HostExecutor, HostPath
from ..graph.model import Model
from ..graph.numpy_executor import NumpyExecutor
from .library import ggml, own_products


def host_path(num_threads: int = 0) -> HostPath:
    """ggml, or numpy without it. num_threads: of ggml, 0 takes `default_threads`."""
    library = ggml()
    if library is None:
        return HostPath(NumpyExecutor, reads_halves=False)

    # These need the native module, which may be missing as well.
    from .ggml_executor import GgmlExecutor
    from .lowering import LOWERINGS

    def make_executor(model: Model, cache: CacheStorage, keep: bool) -> HostExecutor:
        return GgmlExecutor(library, model, cache, keep, num_threads, own_products())

    return HostPath(make_executor, reads_halves=True, kernels=frozenset(LOWERINGS))
