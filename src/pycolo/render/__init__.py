"""Renderers of plans, reports and other values: as text, QMP, shell scripts and diagrams.

Each is a pure function from a value to a string and uses nothing but the value. So it shows only
what a plan holds, and the same plan always gives the same text.
"""

from pycolo.conditions import describe
from pycolo.render import mermaid, qmp, shell, text

__all__ = ("describe", "mermaid", "qmp", "shell", "text")
