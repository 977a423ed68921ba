"""What holds for the repository as a whole, and for the rules of `conftest.py`."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import pycolo
from pycolo import helper

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"

# Written in parts, so that this file does not contain what it looks for.
REGISTRIES = (
    ("deb", "debian", "org"),
    ("archive", "ubuntu", "com"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("registry", "npmjs"),
)
HOMES = (("wo", "rk"), ("ro", "ot"), ("fa", "rm"), ("tmp/sp", "ec"))
FORBIDDEN = re.compile(
    "|".join(
        [r"\.".join(parts) for parts in REGISTRIES]
        + [rf"(?<![\w.}}])/{''.join(parts)}/" for parts in HOMES]
    )
)

TEST_THAT_SKIPS = '''
import pytest

@pytest.mark.qemu
def test_on_qemu():
    """Needs QEMU."""
    pytest.skip("no QEMU here")

def test_elsewhere():
    """Needs something else."""
    pytest.skip("not on this machine")
'''

TEST_THAT_IS_ENDED = '''
import asyncio
import os
import signal

def test_ended():
    """Is ended while it waits."""
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what it awaits on its way out is done
            os.kill(os.getpid(), signal.SIGTERM)
            print("cleared up")
    asyncio.run(main())
'''


def tracked_files(under: Path = ROOT) -> list[Path]:
    """Give the files that git knows, or that it would if they were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone, so nothing tells the repository's files from others")
    listed = subprocess.run(
        [
            "git",
            "-c",
            f"safe.directory={ROOT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=under,
        check=True,
        capture_output=True,
        text=True,
    )
    return [under / name for name in listed.stdout.split("\0") if (under / name).is_file()]


def test_version_is_written_once() -> None:
    """The version stands in `pycolo/__init__.py` and nowhere else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assignments = [
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if re.search(r"^__version__\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert ["pycolo/__init__.py"] == assignments
    assert ["version"] == project["dynamic"]


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    """What the repository says holds on every machine, whatever mirror it installs from."""
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in tracked_files()
        for match in FORBIDDEN.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert [] == found


def test_every_module_has_a_docstring() -> None:
    """Each module of the package says what it is."""
    silent = [
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) is None
    ]
    assert [] == silent


def test_wheel_carries_the_whole_package(tmp_path: Path) -> None:
    """The wheel has every file of the package (types, schemas), under the package's version."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    wheel = tmp_path / f"pycolo-{pycolo.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("pycolo/")}
    assert {str(file.relative_to(SOURCE)) for file in tracked_files(SOURCE)} == packed
    assert "pycolo/py.typed" in packed


def test_contributing_lists_the_layers_in_the_order_the_tool_enforces() -> None:
    """The table that people read and the contract that import-linter reads agree."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    enforced = re.findall(
        r"\w+", " ".join(pyproject["tool"]["importlinter"]["contracts"][0]["layers"])
    )
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    assert enforced == re.findall(r"`(\w+)`", " ".join(rows))


@pytest.fixture
def under_our_rules(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder whose tests are held to the rules of this repository."""
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = qemu\nasyncio_default_fixture_loop_scope = function\n")
    return pytester


def test_on_ci_a_test_on_qemu_that_skips_fails(
    under_our_rules: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CI=true a skip of a test on real QEMU is a failure, other skips stay skips."""
    monkeypatch.setenv("CI", "true")
    under_our_rules.makepyfile(TEST_THAT_SKIPS)
    result = under_our_rules.runpytest_subprocess()
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*test_on_qemu may not skip where CI=true: *no QEMU here*"])


def test_elsewhere_a_test_on_qemu_may_skip(
    under_our_rules: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without QEMU the other tests still run."""
    monkeypatch.delenv("CI", raising=False)
    under_our_rules.makepyfile(TEST_THAT_SKIPS)
    under_our_rules.runpytest_subprocess().assert_outcomes(skipped=2)


def test_on_ci_a_module_that_skips_itself_fails(
    under_our_rules: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CI=true no module can take its tests out of the run."""
    monkeypatch.setenv("CI", "true")
    under_our_rules.makepyfile("import pytest\npytest.importorskip('no_such_module')")
    result = under_our_rules.runpytest_subprocess()
    result.assert_outcomes(errors=1)


def test_a_test_without_a_docstring_is_refused(under_our_rules: pytest.Pytester) -> None:
    """A test that does not say what it shows stops the run before anything runs."""
    under_our_rules.makepyfile("def test_silent():\n    pass")
    result = under_our_rules.runpytest_subprocess()
    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*without a docstring*test_silent*"])


@pytest.mark.parametrize("ctrl_c", ["taken", "ignored"])
def test_a_run_that_is_ended_clears_up(under_our_rules: pytest.Pytester, ctrl_c: str) -> None:
    """SIGTERM lets a test end what it has started, in a background job of a shell too."""
    under_our_rules.makepyfile(TEST_THAT_IS_ENDED)
    run = (sys.executable, "-m", "pytest", "-s")
    # What is ignored stays so in the program that takes a shell's place.
    trap = "trap '' INT; " if ctrl_c == "ignored" else ""
    result = under_our_rules.run("sh", "-c", f'{trap}exec "$@"', "sh", *run)
    assert pytest.ExitCode.INTERRUPTED == result.ret
    result.stdout.fnmatch_lines(["*cleared up*"])


def test_helper_is_one_argument_of_a_process() -> None:
    """A launch hands it to a new process as one argument, of which Linux takes 128 KiB."""
    assert len(helper.text().encode()) < 128 << 10
