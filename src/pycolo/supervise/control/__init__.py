"""Ask a supervisor, or this host's agent, for something while it runs.

It listens on a socket in its store's folder, an agent in the one that `of_agents` names.

`served` listens for one supervisor, `find` gives the way to the one that keeps a pair. Who may open
the socket may have the supervisor act, so it is for the supervisor's user alone.
"""

from pycolo.supervise.control._client import Control, find, found
from pycolo.supervise.control._messages import PairView
from pycolo.supervise.control._place import of_agents
from pycolo.supervise.control._server import served

__all__ = ("Control", "PairView", "find", "found", "of_agents", "served")
