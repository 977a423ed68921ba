"""Arbiters: where the agents of several hosts keep the records of their pairs.

`SqliteArbiter` serves agents on one machine. `pycolo.supervise.arbiters.etcd.EtcdArbiter` serves
agents on many, and needs the extra `etcd` (aiohttp). The functions are for an arbiter of your own:
they check what it is given, and make texts of what it stores.
"""

from pycolo.supervise.arbiters.checks import (
    check_lease,
    check_node,
    check_pair,
    check_swap,
    overtaken,
)
from pycolo.supervise.arbiters.sqlite import SqliteArbiter
from pycolo.supervise.arbiters.text import dump_end, dump_shared, load_end, load_shared

__all__ = (
    "SqliteArbiter",
    "check_lease",
    "check_node",
    "check_pair",
    "check_swap",
    "dump_end",
    "dump_shared",
    "load_end",
    "load_shared",
    "overtaken",
)
