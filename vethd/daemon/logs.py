"""Logging: structlog to stderr, as readable lines on a terminal, otherwise as JSON."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog


def set_up(level: int, log_format: str) -> None:
    """Configure structlog once; log_format is "auto", "console" or "json"."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=_colours())]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # asyncio logs through logging: show only its warnings and errors
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, format="%(message)s")


def _colours() -> bool:
    """Return whether stderr is a terminal with colours, and NO_COLOR (no-color.org) does not forbid them."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
