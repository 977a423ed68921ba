"""Readers of the values that pycolo makes: text, QMP, shell and diagrams.

Each is a pure function from a value to a string and draws on nothing else, so what is shown of a
plan is what the plan holds, and the same plan always reads the same.
"""

from pycolo.conditions import describe
from pycolo.render import mermaid, qmp, shell, text

__all__ = ("describe", "mermaid", "qmp", "shell", "text")
