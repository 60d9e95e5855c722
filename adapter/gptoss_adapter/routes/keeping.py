"""What routes of responses and of conversations share: the store, the background, what a query may say.

Stage: 1 route.
Owns: the life of the first two; how a route gets at them.
Does not know: paths, what is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Query
from starlette.requests import Request

from gptoss_adapter.responses.background import BackgroundResponses
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.schemas.responses import Includable
from gptoss_adapter.serving import Services


@asynccontextmanager
async def keep_store(app: FastAPI) -> AsyncIterator[None]:
    """Open the store, and take responses to make in the background: after the app has begun, until before it ends."""
    services: Services = app.state.services
    app.state.response_store = store = ResponseStore.from_settings(services.settings)
    max_under_way = services.settings.adapter.max_background_responses
    app.state.background_responses = background = BackgroundResponses(store, services.drain, max_under_way)
    watch = asyncio.create_task(background.watch(), name="watch-responses")
    try:
        yield
    finally:
        await background.close()
        watch.cancel()
        await store.close()


async def _store_of(request: Request) -> ResponseStore:
    store: ResponseStore = request.app.state.response_store
    return store


async def _background_of(request: Request) -> BackgroundResponses:
    background: BackgroundResponses = request.app.state.background_responses
    return background


Store = Annotated[ResponseStore, Depends(_store_of)]
Background = Annotated[BackgroundResponses, Depends(_background_of)]
Include = Annotated[list[Includable] | None, Query()]
"""What is told in addition. Log probabilities are told where they were asked for when the answer was made."""
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Annotated[Literal["asc", "desc"], Query()]
After = Annotated[str | None, Query()]
"""The id of the item that the page follows."""
