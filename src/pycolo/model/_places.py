"""Different spellings of one place: of a path, and of a host."""

from __future__ import annotations

import ipaddress
import posixpath


def normal(path: str) -> str:
    """A path without `//`, `.` and `..`, so that different spellings of one path compare equal."""
    return posixpath.normpath("/" + path.lstrip("/"))


def normal_host(host: str) -> str:
    """A host name or IP address, so that different spellings of one compare equal."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")
