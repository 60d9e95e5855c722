"""How this process logs.

Stage: start-up.
Owns: the log's format and levels; that every line carries the request id.
Does not know: who logs what.
"""

from __future__ import annotations

import logging
from typing import Any

from gptoss_adapter.context import current_request_id


class RequestIdFilter(logging.Filter):
    """Gives every record the id of the request whose task logs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id` to the record; drop nothing."""
        record.request_id = current_request_id()
        return True


def log_config(level: str) -> dict[str, Any]:
    """Return the configuration for logging.config.dictConfig. level: as `adapter.log_level`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": RequestIdFilter}},
        "formatters": {
            "line": {"format": "%(asctime)s %(levelname)s %(request_id)s %(name)s: %(message)s"},
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]},
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
    }
