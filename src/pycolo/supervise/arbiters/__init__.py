"""Arbiters: where the agents of several hosts keep the records of their pairs.

`SqliteArbiter` serves agents on one machine. `pycolo.supervise.arbiters.etcd.EtcdArbiter` serves
agents on many, and needs the extra `etcd` (aiohttp).
"""

from pycolo.supervise.arbiters.sqlite import SqliteArbiter
from pycolo.supervise.arbiters.text import dump_end, dump_shared, load_end, load_shared

__all__ = ("SqliteArbiter", "dump_end", "dump_shared", "load_end", "load_shared")
