"""A read-only HTTP server of a supervisor, for people and for monitoring.

This package needs the extra `http` (aiohttp and prometheus-client).
"""

from pycolo.supervise.http._server import served

__all__ = ("served",)
