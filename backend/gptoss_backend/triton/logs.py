"""Python's logging inside a stub goes to Triton's log.

Owns: the handler. Does not know: who logs what.
"""

from __future__ import annotations

import logging

import triton_python_backend_utils as pb_utils


class _TritonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        write = pb_utils.Logger.log_info
        if record.levelno >= logging.ERROR:
            write = pb_utils.Logger.log_error
        elif record.levelno >= logging.WARNING:
            write = pb_utils.Logger.log_warn
        write(self.format(record))


def log_to_triton() -> None:
    """Send our records, from INFO up, to Triton's log. Called once, from `initialize`."""
    logger = logging.getLogger("gptoss_backend")
    logger.handlers = [_TritonHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False
