"""An engine whose loop runs, over a model without arithmetic."""

from __future__ import annotations

import queue

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from support.fake_model import FakeModel

OPTIONS = EngineOptions(
    max_num_seqs=4, max_queue=8, prefill_chunk_tokens=32, kv_cache_bytes=8 * 2**20, max_model_len=512
)
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


class Running:
    """A started engine and what it has said."""

    def __init__(self, model: FakeModel, options: EngineOptions) -> None:
        self.model = model
        self.said: queue.SimpleQueue[list[TokenDelta]] = queue.SimpleQueue()
        self.engine = Engine(model, options, self.said.put)
        self.engine.start()

    def submit(
        self, request_id: str, prompt: list[int], sampling: SamplingParams = GREEDY, mask: TokenMask | None = None
    ) -> None:
        self.engine.submit(GenerationRequest(request_id, prompt, sampling, mask))

    def until_last(self, *request_ids: str) -> dict[str, list[TokenDelta]]:
        """Collect deltas until each of these requests has had its last word."""
        deltas: dict[str, list[TokenDelta]] = {}
        open_ids = set(request_ids)
        while open_ids:
            for delta in self.said.get(timeout=10):
                deltas.setdefault(delta.request_id, []).append(delta)
                if delta.is_last:
                    open_ids.discard(delta.request_id)
        return deltas


def tokens_of(deltas: list[TokenDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]
