"""The log: lines of text, or with VKBACKEND_LOG_FORMAT=json, JSON objects for a log collector; both with the request's
id.
"""

import json
import logging
import time

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from . import request_id

FIELDS = ("method", "path", "status", "seconds", "bytes", "remote")  # of a line about an answered request
MAX_PATH = 1024  # logged characters of a path
TEXT = "%(asctime)s %(levelname)s %(tag)s%(message)s"


class TextFormatter(logging.Formatter):
    """One line of text per record, with the request's id."""

    def __init__(self):
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        """A record as text; `%(tag)s` of the format is the request's id in brackets, or empty."""
        id = getattr(record, "request_id", "") or request_id.current.get()
        record.tag = f"[{id}] " if id else ""
        return super().format(record)


class JSONFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message; within a request also request_id; for
    an answered request also `FIELDS`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line of JSON."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        id = getattr(record, "request_id", "") or request_id.current.get()
        if id:
            line["request_id"] = id
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def formatter(format: str) -> logging.Formatter:
    """The formatter for VKBACKEND_LOG_FORMAT, "text" or "json"."""
    return JSONFormatter() if format == "json" else TextFormatter()


class AccessLogger(AbstractAccessLogger):
    """Logs each answered request. It runs outside of the request's context, so it takes the id from the answer."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log an answer. time: seconds from the request's arrival to the end of the answer."""
        path = request.raw_path[:MAX_PATH]
        remote = (request.remote or "").removeprefix("::ffff:")  # an IPv4 client, on a socket for both families
        fields = {
            "method": request.method,
            "path": path,
            "status": response.status,
            "seconds": round(time, 6),
            "bytes": response.body_length,
            "remote": remote,
        }
        id = response.headers.get(request_id.HEADER, "")
        self.logger.info(
            '%s "%s %s" %d %.3fs',
            remote,
            request.method,
            path,
            response.status,
            time,
            extra=fields | {"request_id": id},
        )
