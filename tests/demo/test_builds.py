"""QEMU builds come from the archive this machine uses, whole or not at all."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pycolo.demo import _apt
from pycolo.demo.builds import (
    RELEASES,
    FetchError,
    QemuBuild,
    Release,
    complete_folder,
    default_cache,
    fetch,
    is_complete,
)

DEBIAN_SOURCES = """\
# the archive
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
"""


@pytest.fixture
def apt_dir(tmp_path: Path) -> Path:
    """Give an empty configuration folder of apt."""
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def test_a_deb822_stanza_is_read_with_its_continued_lines() -> None:
    """Comments are skipped and a folded field is one field."""
    expected = _apt.AptSource(
        uri="http://mirror.example/debian",
        suites=("bookworm", "bookworm-updates"),
        components=("main",),
        signed_by="/usr/share/keyrings/debian-archive-keyring.gpg",
    )
    assert expected == _apt.parse_deb822(DEBIAN_SOURCES)[0]


@pytest.mark.parametrize("line", ["Enabled: no", "Types: deb-src"])
def test_a_stanza_that_gives_no_packages_is_left_out(line: str) -> None:
    """What is switched off, or has sources only, names no archive to fetch from."""
    stanza = "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
    text = f"{stanza}{line}\n"
    assert () == _apt.parse_deb822(text)


def test_one_line_sources_are_read_with_their_options() -> None:
    """Options in brackets, comments and source packages do not confuse the reader."""
    text = (
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main contrib # a\n"
        "deb\thttp://tab.example/debian\ttrixie\tmain\n"
    )
    expected = (
        _apt.AptSource(
            uri="http://mirror.example/debian",
            suites=("trixie",),
            components=("main", "contrib"),
            signed_by="/k.gpg",
        ),
        _apt.AptSource(uri="http://tab.example/debian", suites=("trixie",), components=("main",)),
    )
    assert expected == _apt.parse_one_line(text)


def test_the_mirror_is_the_one_this_machine_uses(apt_dir: Path) -> None:
    """The archive is taken, the security archive is not."""
    (apt_dir / "sources.list.d/debian.sources").write_text(DEBIAN_SOURCES)
    assert "http://mirror.example/debian" == _apt.debian_mirror(apt_dir, {})


def test_the_mirror_is_found_in_the_old_file_too(apt_dir: Path) -> None:
    """A machine that has only sources.list is read as well."""
    (apt_dir / "sources.list").write_text("deb http://mirror.example/debian/ stable main\n")
    assert "http://mirror.example/debian" == _apt.debian_mirror(apt_dir, {})


def test_a_vendor_that_borrows_a_suite_name_is_not_taken_for_debian(apt_dir: Path) -> None:
    """Debian's keyring is surer than a suite called bookworm."""
    vendor = "deb [signed-by=/vendor.gpg] http://vendor.example bookworm main\n"
    (apt_dir / "sources.list.d/a-vendor.list").write_text(vendor)
    (apt_dir / "sources.list.d/debian.sources").write_text(DEBIAN_SOURCES)
    assert "http://mirror.example/debian" == _apt.debian_mirror(apt_dir, {})


def test_a_machine_without_debian_sources_is_told_what_to_set(apt_dir: Path) -> None:
    """On Ubuntu there is no Debian archive; the error names the variable that helps."""
    (apt_dir / "sources.list").write_text("deb http://archive.example/ubuntu noble main\n")
    with pytest.raises(FetchError, match="set PYCOLO_DEBIAN_MIRROR"):
        _apt.debian_mirror(apt_dir, {})


def test_the_variable_comes_before_the_machines_sources(apt_dir: Path) -> None:
    """What a person sets is used."""
    (apt_dir / "sources.list.d/debian.sources").write_text(DEBIAN_SOURCES)
    environ = {"PYCOLO_DEBIAN_MIRROR": "http://mine.example/debian"}
    assert "http://mine.example/debian" == _apt.debian_mirror(apt_dir, environ)


def test_a_missing_keyring_is_named_with_its_package(tmp_path: Path) -> None:
    """Without a keyring nothing is fetched, and the error says what to install."""
    with pytest.raises(FetchError, match="install the package debian-archive-keyring"):
        _apt.debian_keyring({"PYCOLO_DEBIAN_KEYRING": str(tmp_path / "none.gpg")})


def test_other_architectures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builds are for amd64; elsewhere the error says so."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(FetchError, match=r"'aarch64'.*amd64 only"):
        _apt.require_amd64_and_apt()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PYCOLO_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/pycolo")),
        ({}, Path.home() / ".cache/pycolo"),
    ],
)
def test_the_cache_is_where_the_environment_says(environ: dict[str, str], expected: Path) -> None:
    """The variable of pycolo comes before the desktop's, which comes before the home folder."""
    assert expected == default_cache(environ)


def test_a_folder_is_complete_only_when_its_block_ended(tmp_path: Path) -> None:
    """While it is filled, and after a failure, nothing is in its place."""
    folder = tmp_path / "x"

    def fail_half_way() -> None:
        with complete_folder(folder, on_progress=print) as partial:
            assert partial is not None
            (partial / "half").touch()
            assert not folder.exists()
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert [tmp_path / "x.lock"] == list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_not_taken_as_whole(tmp_path: Path) -> None:
    """A folder without stamp and an old partial one are both made anew."""
    for name in ("x", "x.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with complete_folder(tmp_path / "x", on_progress=print) as partial:
        assert partial is not None
        (partial / "new").touch()
    assert ["complete", "new"] == sorted(path.name for path in (tmp_path / "x").iterdir())
    with complete_folder(tmp_path / "x", on_progress=print) as partial:
        assert partial is None


def test_two_at_once_fill_a_folder_once(tmp_path: Path) -> None:
    """The second waits for the first and finds its work."""
    waiting = threading.Event()
    filled_by_second: list[Path | None] = []

    def second() -> None:
        with complete_folder(tmp_path / "x", on_progress=lambda _: waiting.set()) as partial:
            filled_by_second.append(partial)

    thread = threading.Thread(target=second)
    with complete_folder(tmp_path / "x", on_progress=print):
        thread.start()
        assert waiting.wait(10)
    thread.join(10)
    assert [None] == filled_by_second
    assert is_complete(tmp_path / "x")


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt-get")
def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that is not there is an error, not an empty build."""
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setenv("PYCOLO_DEBIAN_KEYRING", str(keyring))
    cache = tmp_path / "cache"
    with pytest.raises(FetchError, match="apt-get ended with code 100"):
        fetch("7.2", cache, f"file:{tmp_path}/no-archive")
    assert ["qemu-7.2.lock"] == [path.name for path in cache.iterdir()]


@pytest.mark.parametrize("mirror", ["", "http://a.example b"])
def test_a_mirror_that_is_not_one_address_is_refused(mirror: str, tmp_path: Path) -> None:
    """Nothing else could be smuggled into apt's configuration with it."""
    with pytest.raises(FetchError, match="must be one URI"):
        _apt.PrivateApt.create(tmp_path, mirror=mirror, suites=("trixie",), on_progress=print)


def test_a_program_that_takes_too_long_is_ended() -> None:
    """Nothing that is started can keep the caller waiting for ever."""
    with pytest.raises(FetchError, match=r"sleep did not end within 0\.1 s"):
        _apt.run_text(["sleep", "60"], limit_s=0.1)


@pytest.mark.qemu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("release", RELEASES)
def test_each_build_says_its_version(
    release: Release, qemu_builds: Mapping[Release, QemuBuild]
) -> None:
    """Emulator and image program both run, and are of the release that was asked for."""
    build = qemu_builds[release]
    text = subprocess.check_output([str(build.qemu_img), "--version"], text=True)
    assert build.version.startswith(f"{release}.")
    assert text.startswith(f"qemu-img version {build.version} ")


@pytest.mark.qemu
def test_a_build_that_is_there_needs_no_archive(qemu_builds: Mapping[Release, QemuBuild]) -> None:
    """A second fetch returns the same build without asking anybody."""
    assert qemu_builds["7.2"] == fetch("7.2", mirror="file:/nowhere")


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
def test_the_process_that_was_started_is_qemu_itself(
    release: Release,
    qemu_builds: Mapping[Release, QemuBuild],
    start_qemu: "Callable[..., subprocess.Popen[str]]",
) -> None:
    """QEMU gives the same process id as the one its starter holds."""
    process = start_qemu(qemu_builds[release], "-M", "none", "-qmp", "stdio")
    assert process.stdout is not None
    assert '"QMP"' in process.stdout.readline()
    assert b"qemu-system-x86_64" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
