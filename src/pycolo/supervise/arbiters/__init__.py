"""Arbiters: where the agents of several hosts keep the records of their pairs.

`SqliteArbiter` serves agents on one machine, and `pycolo.supervise.arbiters.etcd.EtcdArbiter` those
of many; it needs the extra `etcd` (aiohttp).
"""

from pycolo.supervise.arbiters.sqlite import SqliteArbiter
from pycolo.supervise.arbiters.text import dump_end, dump_shared, load_end, load_shared

__all__ = ("SqliteArbiter", "dump_end", "dump_shared", "load_end", "load_shared")
