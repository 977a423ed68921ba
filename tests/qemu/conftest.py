"""What several tests on real QEMU are given."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pycolo.demo.network import Network, NetworkError, namespaces


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts, which are namespaces of this kernel."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    try:
        with namespaces(("alpha", "beta")) as made:
            yield made
    except NetworkError as error:
        pytest.skip(f"no network namespaces here: {error}")
