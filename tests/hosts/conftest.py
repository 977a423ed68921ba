"""Hosts for the tests of this folder."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.hosts.testbed import Testbed, separate_hosts, why_none
from tests.real_qemu import build_of


@pytest.fixture(scope="module")
def hosts() -> Generator[Testbed]:
    """Three hosts and a controller."""
    why = why_none()
    if why is not None:
        pytest.skip(why)
    with separate_hosts(build_of("11.1").prefix.parent, ("alpha", "beta", "gamma")) as made:
        yield made
