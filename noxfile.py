"""The checks of this repository, one session each: `nox -s NAME`, or all with `nox`.

`pycolo-dev test` runs the same sessions, without environments of their own, in `.venv`.
Each pytest session leaves its counts in `build/reports/NAME.xml`. Those but the searches leave
their coverage in `build/coverage/`, where the session `coverage` adds it up.
"""

import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

TYPED = ("src", "tests", "examples", "benchmarks", "noxfile.py", "pycolo-dev")


# The classifiers are the one place that lists the versions of Python.
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))

QUICK = "not property and not qemu and not heavy and not nightly"
COVERED = ("coverage", "run", "-m", "pytest")


def _install(session: nox.Session, *groups: str) -> None:
    chosen = [argument for group in groups for argument in ("--group", group)]
    session.install("pip>=25.1")
    session.install("--editable", ".[cli,ssh,http,etcd]", *chosen)


def _pytest(session: nox.Session, markers: str, *runner: str) -> None:
    session.run(
        *(runner or COVERED),
        *("-m", markers),
        f"--junit-xml=build/reports/{session.name}.xml",
        *session.posargs,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format of every Python file, and the shape of the change fragments."""
    _install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("towncrier", "build", "--draft", "--version", "unreleased", silent=True)


@nox.session
def typing(session: nox.Session) -> None:
    """Types, as strict as mypy can be."""
    _install(session, "typing")
    session.run("mypy", *(path for path in TYPED if any(_python_files(Path(path)))))


@nox.session
def layers(session: nox.Session) -> None:
    """Which module may import which."""
    _install(session, "lint")
    session.run("lint-imports", "--no-cache")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that is quick and needs no QEMU, the examples in docstrings included."""
    _install(session, "test")
    _pytest(session, QUICK, *COVERED, "--numprocesses=auto")


@nox.session(name="property")
def properties(session: nox.Session) -> None:
    """Searches for counterexamples, on every core; they cover nothing that the others do not."""
    _install(session, "test")
    _pytest(session, "property and not nightly", "pytest", "--numprocesses=auto")


@nox.session(default=False)
def nightly(session: nox.Session) -> None:
    """Every case of the long matrices, ten thousand random lives of fakes, every benchmark."""
    _install(session, "test")
    session.run("pytest", "-m", "nightly", *session.posargs)
    session.env["PYCOLO_LIVES"] = "10000"
    session.run("pytest", "-m", "property", "tests/testing/test_lives.py", *session.posargs)
    session.run("python", "-m", "benchmarks", "all")


@nox.session
def qemu(session: nox.Session) -> None:
    """Tests on real QEMU that run beside each other; of the long matrices a part of each."""
    _install(session, "test")
    beside = ("--numprocesses=auto", "--maxprocesses=4")
    _pytest(session, "qemu and not heavy and not nightly", *COVERED, *beside)


@nox.session
def heavy(session: nox.Session) -> None:
    """Tests that take minutes, gigabytes, a real Linux guest or etcd, one at a time."""
    _install(session, "test")
    _pytest(session, "heavy and not nightly")


@nox.session
def coverage(session: nox.Session) -> None:
    """What the pytest sessions before this one have covered together, against the floor."""
    _install(session, "test")
    session.run("coverage", "combine", "--keep", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """The manual, every warning an error, and the examples in it."""
    _install(session, "docs")
    for builder in ("html", "doctest"):
        session.run(
            *("sphinx-build", "--nitpicky", "--fail-on-warning", "--keep-going", "--quiet"),
            *("--builder", builder, "docs", f"build/docs/{builder}"),
        )


@nox.session
def examples(session: nox.Session) -> None:
    """The examples of the README, and every script in examples/."""
    _install(session)
    session.run("python", "-m", "doctest", "README.md")
    for script in sorted(Path("examples").glob("*.py")):
        session.run("python", str(script))


@nox.session
def minimum(session: nox.Session) -> None:
    """The quick tests again, with the oldest dependencies that pyproject.toml admits."""
    constraints = Path(session.create_tmp()) / "minimum.txt"
    constraints.write_text("\n".join(_lowest_versions()) + "\n", encoding="utf-8")
    session.install("pip>=25.1")
    session.install(
        *("--editable", ".[cli,ssh,http,etcd]", "--group", "test", "--constraint", str(constraints))
    )
    session.run("pytest", "-m", QUICK, *session.posargs)


@nox.session(python=PYTHONS, default=False)
def pythons(session: nox.Session) -> None:
    """The quick tests on each version of Python that `pyproject.toml` lists."""
    _install(session, "test")
    session.run("pytest", "-m", QUICK, *session.posargs)


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Build what is released, and try it; `-- VERSION` moves the change fragments as well."""
    version = _version()
    if session.posargs not in ([], [version]):
        session.error(f"src/pycolo/__init__.py says {version}: set the version there first")
    session.install("pip>=25.1")
    session.install("--group", "release")
    if session.posargs:
        session.run("towncrier", "build", "--yes", "--version", version)
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    built = sorted(str(path) for path in Path("dist").iterdir())
    session.run("twine", "check", "--strict", *built)
    wheel = next(path for path in built if path.endswith(".whl"))
    session.install(f"{wheel}[cli,ssh,http,etcd]")
    # From elsewhere, so that the sources beside us are not what is tried.
    pair = Path("examples/pair.toml").resolve()
    session.chdir(session.create_tmp())
    session.run("pycolo", "--version")
    session.run("python", "-m", "pycolo", "plan", "start", str(pair), silent=True)


def _version() -> str:
    found = re.search(r'__version__ = "(.+)"', Path("src/pycolo/__init__.py").read_text("utf-8"))
    if found is None:
        raise ValueError("no version in src/pycolo/__init__.py")
    return found[1]


def _lowest_versions() -> list[str]:
    """Each `name>=version` of the project's own requirements, as `name==version`."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["cli"], *extras["ssh"], *extras["http"]]
    return [re.sub(r">=([0-9.]+).*", r"==\1", requirement) for requirement in requirements]


def _python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))
