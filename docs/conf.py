"""How Sphinx builds the manual."""

import pycolo

project = "pycolo"
author = "the pycolo authors"
release = version = pycolo.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pycolo"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"

# The manual is built without a network, so other projects' names cannot be looked up.
_ELSEWHERE = (
    "argparse asyncio attr attrs collections concurrent contextlib datetime enum ipaddress os"
    " pathlib qemu types typing typing_extensions"
)
nitpick_ignore_regex = [("py:.*", rf"{name}\..*") for name in _ELSEWHERE.split()]
