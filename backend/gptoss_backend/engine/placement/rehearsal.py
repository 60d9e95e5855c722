"""Two steps that are nobody's, before the first that is somebody's.

Stage: start-up, once the cache is there. Owns: those steps. Does not know: who computes, how long it may take.
"""

from __future__ import annotations

from typing import Final

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import Model

_NUM_TOKENS: Final = 8
_TOKEN: Final = 0


def rehearse(model: Model, cache: KVCache) -> None:
    """Compute a short prompt, with logits, and a token behind it, in blocks that are free again afterwards.

    Nothing of it can be found by its content, and no count tells of it. Raises what a step raises.
    """
    length = min(_NUM_TOKENS, cache.plan.max_model_len - 1)
    prompt = [_TOKEN] * length
    row, _ = cache.open(prompt)
    try:
        cache.reserve(row, length + 1)
        prefill = Batch(prompt, list(range(length)), [row] * length, [length - 1], 0, [Chunk(0, length, row, 0)])
        model.launch(prefill, cache, with_logits=True).result()
        model.launch(Batch([_TOKEN], [length], [row], [0], 1, []), cache, with_logits=False).result()
    finally:
        cache.close(row)
