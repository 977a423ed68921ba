"""The everyday names: `from pycolo import ...`."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import pycolo

SOURCE = ast.parse(Path(pycolo.__file__).read_text(encoding="utf-8"))


def type_checkers_homes() -> dict[str, str]:
    """Give each name that type checkers import, and from where."""
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def in_new_python(code: str) -> str:
    """Run `code` where nothing of pycolo was imported yet; give what it prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", pycolo.__all__)
def test_name_is_what_its_module_has_and_is_documented(name: str) -> None:
    """A name gives the very object that type checkers see, and that says what it is."""
    found: object = getattr(pycolo, name)
    home = importlib.import_module(type_checkers_homes()[name])
    assert getattr(home, name) is found
    assert inspect.getdoc(found)


def test_names_are_listed_once_and_are_all_that_type_checkers_see() -> None:
    """`__all__` has no double, and neither more nor less than the imports for type checkers."""
    assert sorted(type_checkers_homes()) == sorted(pycolo.__all__)
    assert set(pycolo.__all__) <= set(dir(pycolo))


def test_names_stand_in_the_order_in_which_a_user_needs_them() -> None:
    """Declare, compile, read the plan, execute; errors stand last."""
    landmarks = (
        "ColoPair",
        "Node",
        "load",
        "start",
        "compile_offline",
        "Plan",
        "execute",
        "PycoloError",
    )
    places = [pycolo.__all__.index(name) for name in landmarks]
    assert sorted(places) == places
    errors = pycolo.__all__[pycolo.__all__.index("PycoloError") :]
    assert all(issubclass(getattr(pycolo, name), pycolo.PycoloError) for name in errors)


def test_unknown_name_is_refused_as_python_does() -> None:
    """A misspelled name is an AttributeError that says it."""
    with pytest.raises(AttributeError, match="module 'pycolo' has no attribute 'Colopair'"):
        getattr(pycolo, "Colopair")  # noqa: B009 - written plainly, mypy refuses it


def test_no_name_is_that_of_a_module() -> None:
    """Python binds a module in its package: `pycolo.execute` must not depend on who imported it."""
    modules = {module.name for module in pkgutil.iter_modules(pycolo.__path__)}
    assert "session" in modules
    assert not modules & set(pycolo.__all__)


def test_import_loads_nothing_else() -> None:
    """Who imports pycolo waits for no module of it, nor for asyncio."""
    code = "import pycolo, sys\nprint([m for m in sys.modules if m in ('asyncio', 'attr')"
    code += " or m.startswith(('pycolo.', 'qemu'))])"
    assert "[]" == in_new_python(code)
