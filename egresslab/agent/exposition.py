"""Metrics over HTTP in Prometheus' and OpenMetrics' text forms, for agents and the operator.

What there is, is declared once, with its help; values are read when somebody asks, so nothing is counted twice and a
metric cannot differ from what the kernel says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from egresslab.agent.serving import serving

PREFIX = "egresslab_"


class Kind(StrEnum):
    """What a value does over time."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric: its full name (counters end in `_total`), what kind it is, its labels in order, and what it tells."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    def family(self, samples: Mapping[tuple[str, ...], float]) -> Metric:
        """With values, by the values of the labels."""
        cls = CounterMetricFamily if self.kind is Kind.COUNTER else GaugeMetricFamily
        family = cls(self.name, self.help, labels=self.labels)
        for labels, value in samples.items():
            family.add_metric(labels, value)
        return family


Samples = Mapping[Declaration, Mapping[tuple[str, ...], float]]
Read = Callable[[], Awaitable[Samples]]


class _Snapshot(Collector):
    """Gives the registry what was read for the request at hand."""

    def __init__(self) -> None:
        self.samples: Samples = {}

    def collect(self) -> Iterator[Metric]:
        for declaration, samples in self.samples.items():
            yield declaration.family(samples)


class Exposition:
    """A registry with what `read` gives and what the client library knows of the process."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._snapshot = _Snapshot()
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(self._snapshot)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the form that the scraper accepts."""
        encode, content_type = choose_encoder(accept)
        self._snapshot.samples = await self._read()
        return encode(self._registry), content_type


@asynccontextmanager
async def serve_metrics(address: str, port: int, read: Read) -> AsyncIterator[None]:
    """Answer `GET /metrics` while the context is open."""
    exposition = Exposition(read)

    async def answer(request: web.Request) -> web.Response:
        body, content_type = await exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    application = web.Application()
    application.router.add_get("/metrics", answer)
    async with serving(application, (address, port)):
        yield
