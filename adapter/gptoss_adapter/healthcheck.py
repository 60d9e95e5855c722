"""`python -m gptoss_adapter.healthcheck PORT`: whether the adapter of this container lives, for Docker's HEALTHCHECK.

Stage: while the adapter runs, in a process of its own every few seconds.
Owns: the question, by HTTP or HTTPS, whichever is spoken at the port.
Does not know: settings. To read them would take longer than to ask twice.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from typing import Final

_TIMEOUT_S: Final = 2.0
_OK: Final = 200


def is_live(port: int) -> bool:
    """Ask the adapter at this port of this machine. Blocks for four seconds at most."""
    # http.client and not urllib, which would ask a configured proxy for 127.0.0.1
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        return _answers(plain)
    except (OSError, http.client.HTTPException):
        # no certificate names 127.0.0.1
        context = ssl._create_unverified_context()
        encrypted = http.client.HTTPSConnection("127.0.0.1", port, timeout=_TIMEOUT_S, context=context)
        try:
            return _answers(encrypted)
        except (OSError, http.client.HTTPException):
            return False


def _answers(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == _OK
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_live(int(sys.argv[1])))
