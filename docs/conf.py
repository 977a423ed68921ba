"""How Sphinx builds the manual."""

import sys
from pathlib import Path

import pycolo

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "pycolo"
author = "the pycolo authors"
release = version = pycolo.__version__

extensions = [
    "myst_parser",
    "pycolo_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pycolo"
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}

# The manual is built without a network, so other projects' names cannot be looked up.
_ELSEWHERE = (
    "argparse asyncio attr attrs collections concurrent contextlib datetime enum ipaddress"
    " logging os pathlib qemu socket types typing typing_extensions"
)
nitpick_ignore_regex = [("py:.*", rf"{name}\..*") for name in _ELSEWHERE.split()]
# What a module keeps to itself has no entry in the manual.
nitpick_ignore_regex += [
    ("py:.*", r"pycolo\._(json|forms)\..*"),
    ("py:.*", r"pycolo\..*\._[A-Z]\w*"),
]
# attrs writes the types into a class's signature as its source has them.
nitpick_ignore_regex += [("py:class", "Path|Procedure|Accelerator")]
