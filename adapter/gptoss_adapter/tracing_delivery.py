"""The way of finished spans to the collector, off the event loop.

Owns: batching, what happens while the collector is away, the farewell at the end.
Does not know: what the spans are of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

_TRACES_PATH: Final = "/v1/traces"
_FAREWELL_S: Final = 2.0


class Delivery:
    """A tracer whose spans go to an OTLP collector over HTTP. OTEL_SERVICE_NAME and its kin are honoured."""

    def __init__(self, endpoint: str, version: str) -> None:
        """endpoint: the collector's base URL, or the full one of its traces."""
        url = endpoint.rstrip("/")
        self._exporter = _SteadyExporter(url if url.endswith(_TRACES_PATH) else url + _TRACES_PATH)
        ours = Resource({"service.name": "gptoss", "service.version": version})
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self.tracer: Tracer = self._provider.get_tracer("gptoss_adapter", version)

    async def close(self) -> None:
        """Deliver what is left, but do not wait for a collector that does not answer."""
        ending = threading.Thread(target=self._provider.shutdown, name="end-traces", daemon=True)
        ending.start()
        deadline_s = time.monotonic() + _FAREWELL_S
        while ending.is_alive() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        if ending.is_alive():
            self._exporter.shutdown()  # breaks off its waiting for another try


class _SteadyExporter(SpanExporter):
    """Says once that the collector is away, and once that it is back. The library would say it with every try."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._exporter = OTLPSpanExporter(url)
        self._is_away = False
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in the batch processor's thread."""
        result = self._exporter.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            logger.warning("the trace collector %s takes no spans; they are dropped until it does", self._url)
        elif self._is_away and not is_away:
            logger.info("the trace collector %s takes spans again", self._url)
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """End, and give up what is being tried."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
