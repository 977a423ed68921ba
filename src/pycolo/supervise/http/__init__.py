"""A read-only HTTP server of a supervisor, for people and for monitoring.

It needs the extra `http` (aiohttp and prometheus-client).
"""

from pycolo.supervise.http._server import served

__all__ = ("served",)
