"""A supervisor over HTTP, for people and for monitoring: everything can be read, nothing changed.

It needs the extra `http` (aiohttp and prometheus-client).
"""

from pycolo.supervise.http._server import served

__all__ = ("served",)
