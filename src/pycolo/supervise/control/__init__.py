"""Requests to a supervisor, or to this host's agent, while it runs.

A supervisor listens on a socket for each pair in its store's folder, an agent in the folder that
`of_agents` names.

`served` listens for one supervisor or agent; `find` finds the one that keeps a pair. A program that
can open the socket can have the supervisor act, so only the supervisor's own user may open it.
"""

from pycolo.supervise.control._client import Control, find, find_keeper, found
from pycolo.supervise.control._messages import PairView
from pycolo.supervise.control._place import of_agents
from pycolo.supervise.control._server import served

__all__ = ("Control", "PairView", "find", "find_keeper", "found", "of_agents", "served")
