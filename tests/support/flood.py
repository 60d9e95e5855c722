"""Many requests at once, as cheap for the client as can be: `python -m support.flood PORT COUNT`.

A process of its own, so that what it costs is not measured as the server's. Prints one JSON object: how many were
answered with which status, and how many refusals said when to come back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

BODY = json.dumps(
    {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "flood"}], "max_tokens": 4}
).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: flood\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
DEADLINE_S = 120.0


async def ask(port: int, outcomes: Counter[str]) -> None:
    """Send one request and count its answer."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
    except OSError as error:  # TimeoutError among them
        outcomes[type(error).__name__] += 1
        return
    outcomes[head.split(b" ", 2)[1].decode() if body else "cut off"] += 1
    outcomes["retry-after"] += b"\r\nretry-after: " in head.lower()


async def flood(port: int, count: int) -> Counter[str]:
    """Send all requests at once."""
    outcomes: Counter[str] = Counter()
    await asyncio.gather(*(ask(port, outcomes) for _ in range(count)))
    return outcomes


if __name__ == "__main__":
    print(json.dumps(asyncio.run(flood(int(sys.argv[1]), int(sys.argv[2])))))
