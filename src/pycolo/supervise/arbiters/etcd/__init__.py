"""An arbiter of several machines: an etcd cluster, over its JSON gateway.

This package needs the extra `etcd` (aiohttp).
"""

from pycolo.supervise.arbiters.etcd._arbiter import EtcdArbiter
from pycolo.supervise.arbiters.etcd._cluster import EtcdCluster

__all__ = ("EtcdArbiter", "EtcdCluster")
