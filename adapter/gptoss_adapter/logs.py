"""How this process logs.

Stage: start-up.
Owns: the log's formats and levels; that every line carries the request id; what a full disk does to it: nothing.
Does not know: who logs what.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

from gptoss_adapter.context import current_request_id

LogFormat = Literal["auto", "text", "json"]

_FIELDS: Final = "fields"
_IN_MESSAGE: Final = "fields_in_message"


def fields(named: Mapping[str, object], in_message: Mapping[str, object]) -> dict[str, object]:
    """Return a log call's `extra` under which these are a line's fields, beside its message.

    in_message: fields that the message tells already, so that people need not read them twice.
    """
    return {_FIELDS: dict(named), _IN_MESSAGE: dict(in_message)}


class RequestIdFilter(logging.Filter):
    """Gives every record the id of the request whose task logs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id` to the record; drop nothing."""
        record.request_id = current_request_id()
        return True


class TextFormatter(logging.Formatter):
    """Lines for people: the fields follow the message as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(request_id)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line, without a traceback."""
        told = "".join(f" {name}={_as_word(value)}" for name, value in _fields_of(record).items())
        return super().formatMessage(record) + told


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines. The fields stand beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, ASCII: an answer with U+2028 breaks no reader."""
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
            **getattr(record, _IN_MESSAGE, {}),
            **_fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), default=str)


class DescriptorHandler(logging.Handler):
    """Writes each line at once, and drops it where it cannot be written.

    Not a StreamHandler: what its stream could not write to a full disk stays in a buffer, and fails the process's exit.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        try:
            os.write(self._descriptor, f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except OSError:
            return
        except Exception:  # noqa: BLE001 (logging's own rule: a record that cannot be formatted fails nobody)
            self.handleError(record)


def log_config(level: str, log_format: LogFormat = "text") -> dict[str, Any]:
    """Return the configuration for logging.config.dictConfig. level, log_format: as in `adapter`."""
    formatter = JsonFormatter if _is_json(log_format) else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": RequestIdFilter}},
        "formatters": {"line": {"()": formatter}},
        "handlers": {
            "stderr": {
                "()": DescriptorHandler,
                "descriptor": sys.stderr.fileno(),
                "formatter": "line",
                "filters": ["request_id"],
            },
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
    }


def _is_json(log_format: LogFormat) -> bool:
    """Return whether lines are JSON; `auto`: where they go into a pipe or a socket, behind which a collector reads."""
    if log_format != "auto":
        return log_format == "json"
    mode = os.fstat(sys.stderr.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    named: dict[str, object] = getattr(record, _FIELDS, {})
    return named


def _as_word(value: object) -> str:
    """Return the value without white space of its own: a line stays a line."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
