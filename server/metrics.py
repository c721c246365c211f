"""Metrics for Prometheus: requests, tokens, the event loop of this process, and the models in memory at the moment.

In: `count_request` and `count_generation` when these happen, the loaded models when /metrics is called. Out: text.
Counters belong to the process, as Prometheus expects; two applications in one process (tests) share them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from vkbackend.engine.request import Finished

if TYPE_CHECKING:  # commands that generate nothing start without the engine
    from vkbackend.engine.engine import Engine

CONTENT_TYPE = CONTENT_TYPE_LATEST
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_requests = Counter("vkbackend_requests", "Answered requests", ["method", "route", "status"], registry=REGISTRY)
_seconds = Histogram(
    "vkbackend_request_seconds",
    "Time from the first byte of a request to the last of its answer",
    ["route"],
    registry=REGISTRY,
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 5, 10, 30, 60, 300),
)
running = Gauge("vkbackend_requests_running", "Requests being answered", registry=REGISTRY)
_tokens = Counter("vkbackend_tokens", "Prompt tokens and generated tokens", ["kind"], registry=REGISTRY)
_generations = Counter(
    "vkbackend_generations", "Generations by the reason why they ended", ["reason"], registry=REGISTRY
)
lag = Histogram(
    "vkbackend_event_loop_lag_seconds",
    "How late the event loop is while requests run",
    registry=REGISTRY,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """route: the route's pattern (`/api/blobs/{digest}`), not the path, which would make a time series of each name
    that a client tries.
    """
    _requests.labels(method if method in METHODS else "other", route, status).inc()
    _seconds.labels(route).observe(seconds)


def count_generation(finished: Finished) -> None:
    """finished: the last event of a generation. Called from any thread."""
    _tokens.labels("prompt").inc(finished.prompt_tokens)
    _tokens.labels("generated").inc(finished.tokens)
    _generations.labels(str(finished.reason)).inc()


class ModelInMemory(Protocol):
    """A loaded model. num_users: requests that use it; size, size_vram: bytes of memory, and of it on devices."""

    @property
    def name(self) -> str: ...

    engine: "Engine"
    num_users: int
    size: int
    size_vram: int


class ModelsInMemory(Protocol):
    """The loaded models. num_waiting: requests that wait for a model to be loaded."""

    @property
    def loaded(self) -> Sequence[ModelInMemory]: ...

    @property
    def num_waiting(self) -> int: ...


class _Models:
    """Collects metrics of the models in memory when Prometheus asks."""

    def __init__(self, models: ModelsInMemory):
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        models = list(self._models.loaded)
        yield GaugeMetricFamily("vkbackend_models_loaded", "Models in memory", len(models))
        yield GaugeMetricFamily(
            "vkbackend_load_queue", "Requests waiting for a model to load", self._models.num_waiting
        )
        users = GaugeMetricFamily("vkbackend_model_users", "Requests that use a model", labels=["model"])
        memory = GaugeMetricFamily("vkbackend_model_memory_bytes", "A model's memory", labels=["model", "where"])
        sequences = GaugeMetricFamily(
            "vkbackend_sequences", "Running and waiting generations of a model", labels=["model"]
        )
        pages = GaugeMetricFamily("vkbackend_cache_pages", "Pages of a model's cache", labels=["model", "state"])
        for model in models:
            name = model.name
            users.add_metric([name], model.num_users)
            memory.add_metric([name, "device"], model.size_vram)
            memory.add_metric([name, "host"], model.size - model.size_vram)
            sequences.add_metric([name], model.engine.num_unfinished)
            counts = model.engine.runner.page_counts()
            for state, count in (("free", counts.free), ("known", counts.known), ("used", counts.used)):
                pages.add_metric([name, state], count)
        yield from (users, memory, sequences, pages)


def text(models: ModelsInMemory) -> bytes:
    """All metrics in the text format of Prometheus."""
    of_models = CollectorRegistry()
    of_models.register(_Models(models))
    return generate_latest(REGISTRY) + generate_latest(of_models)
