"""HEAD: what monitors and load balancers ask where others say GET.

Stage: 1 route.
Owns: that every GET takes HEAD, too, which RFC 9110 wants of servers and FastAPI's routes do not do.
Does not know: the routes. The HTTP server leaves the body out, for it sees the method that was sent.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send)
        finally:
            scope["route"] = as_get.get("route")  # for the log and the metrics
