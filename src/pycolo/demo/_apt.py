"""Debian packages without installing them, by an apt that believes that nothing is installed.

apt resolves, verifies and downloads packages well. Here it has sources, state and caches of its
own, so that it never reads which packages this machine has and never changes them. Since its status
file is empty, it fetches every dependency, libc included (qemu-behaviour 1.2). The unpacked
programs run through their own dynamic loader, so they work on any amd64 machine that has apt. All
folders belong to the calling user, so root is not needed.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, final
from urllib.parse import urlsplit

import attrs

from pycolo.errors import PycoloError

Progress = Callable[[str], None]
"""Receives one line of text for each thing that takes time."""

MIRROR_VARIABLE: Final = "PYCOLO_DEBIAN_MIRROR"
KEYRING_VARIABLE: Final = "PYCOLO_DEBIAN_KEYRING"
DEFAULT_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEBIAN_SUITES: Final = frozenset(
    ("oldstable", "stable", "testing", "unstable", "bullseye", "bookworm", "trixie", "forky", "sid")
)
_UPDATE_LIMIT_S: Final = 300.0
_DOWNLOAD_LIMIT_S: Final = 1200.0
_QUERY_LIMIT_S: Final = 60.0
_UNPACK_LIMIT_S: Final = 120.0


class FetchError(PycoloError):
    """A QEMU build or a guest could not be fetched or made; nothing unfinished was left behind."""


@final
@attrs.frozen(kw_only=True)
class AptSource:
    """One archive named in apt's own configuration."""

    uri: str
    """Where the archive is, in apt's notation."""
    suites: tuple[str, ...]
    """Suites taken from it, such as `bookworm` or `bookworm-updates`."""
    components: tuple[str, ...]
    """Components taken from it, such as `main`."""
    signed_by: str = ""
    """The keyring that verifies it; empty if apt's default keyrings do."""

    @property
    def is_debian(self) -> bool:
        """Whether this source has the component `main` of a Debian suite that is not security."""
        return "main" in self.components and any(_is_debian_suite(suite) for suite in self.suites)

    @property
    def likelihood(self) -> int:
        """A score from 0 to 3; the higher, the more likely it is Debian's own archive."""
        by_key = 2 if "debian-archive" in self.signed_by else 0
        return by_key + (1 if "debian" in urlsplit(self.uri).path else 0)


def parse_deb822(text: str) -> tuple[AptSource, ...]:
    """Read the enabled stanzas of binary packages from a `.sources` file.

    Args:
        text: The file's text, in the format of sources.list(5), "deb822-style format".

    Returns:
        One value for each URI, in the file's order.
    """
    found: list[AptSource] = []
    for stanza in _stanzas(text):
        if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        found.extend(
            AptSource(
                uri=uri,
                suites=tuple(stanza.get("suites", "").split()),
                components=tuple(stanza.get("components", "").split()),
                signed_by=stanza.get("signed-by", ""),
            )
            for uri in stanza.get("uris", "").split()
        )
    return tuple(found)


def parse_one_line(text: str) -> tuple[AptSource, ...]:
    """Read the `deb` lines of a `.list` file.

    Args:
        text: The file's text, in the format of sources.list(5), "one-line-style format".

    Returns:
        One value for each `deb` line, in the file's order.
    """
    parsed = (_parse_line(line.partition("#")[0]) for line in text.splitlines())
    return tuple(source for source in parsed if source is not None)


def debian_mirror(apt_dir: Path = Path("/etc/apt"), environ: Mapping[str, str] = os.environ) -> str:
    """Find the Debian archive this machine already uses.

    Args:
        apt_dir: apt's configuration folder.
        environ: Environment variables; `PYCOLO_DEBIAN_MIRROR` comes before apt's own sources.

    Returns:
        The archive's URI.

    Raises:
        FetchError: Neither the variable nor apt's sources name a Debian archive.
    """
    if given := environ.get(MIRROR_VARIABLE, "").strip():
        return given
    candidates = [source for source in _machine_sources(apt_dir) if source.is_debian]
    if not candidates:
        raise FetchError(
            f"no Debian archive in the apt sources below {apt_dir}: "
            f"set {MIRROR_VARIABLE} to the URI of one"
        )
    return max(candidates, key=lambda source: source.likelihood).uri.rstrip("/")


def debian_keyring(environ: Mapping[str, str] = os.environ) -> Path:
    """Find the keyring Debian's archive is checked against.

    Args:
        environ: Environment variables; `PYCOLO_DEBIAN_KEYRING` names another file than Debian's
            own.

    Returns:
        The keyring's path.

    Raises:
        FetchError: There is no such file.
    """
    path = Path(environ.get(KEYRING_VARIABLE, "") or DEFAULT_KEYRING)
    if not path.is_file():
        raise FetchError(
            f"keyring {path} does not exist: install the package debian-archive-keyring, "
            f"or set {KEYRING_VARIABLE} to Debian's archive keyring"
        )
    return path


def require_amd64_and_apt() -> None:
    """Refuse machines on which Debian's amd64 packages cannot be fetched or run.

    Raises:
        FetchError: The machine is not amd64, or apt-get, apt-cache, dpkg-deb or tar is missing.
    """
    machine = platform.machine()
    if machine not in ("x86_64", "amd64"):
        raise FetchError(
            f"machine architecture {machine!r}: the demo's QEMU builds exist for amd64 only"
        )
    for program, package in (
        ("apt-get", "apt"),
        ("apt-cache", "apt"),
        ("dpkg-deb", "dpkg"),
        ("tar", "tar"),
    ):
        if shutil.which(program) is None:
            raise FetchError(f"program {program!r} not found: install the package {package}")


@final
@attrs.frozen(kw_only=True)
class PrivateApt:
    """An apt with its own sources, state and cache below one folder."""

    folder: Path
    """Folder for apt's files; absolute."""
    on_progress: Progress
    """Called with what is being done."""

    @classmethod
    def create(
        cls, folder: Path, *, mirror: str, suites: Sequence[str], on_progress: Progress
    ) -> "PrivateApt":
        """Set up the folders and download the package lists.

        Args:
            folder: Folder for apt's files, absolute; made if missing.
            mirror: URI of a Debian archive.
            suites: Debian suites to read, at least one.
            on_progress: Called with what is being done.

        Returns:
            An apt that knows the packages of these suites.

        Raises:
            FetchError: The keyring is missing, or the lists could not be read or verified.
        """
        if not mirror or any(character.isspace() for character in mirror):
            raise FetchError(f"mirror {mirror!r}: must be one URI without spaces")
        apt = cls(folder=folder, on_progress=on_progress)
        for part in ("lists/partial", "cache/archives/partial", "state", "parts", "empty"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "parts/debian.sources").write_text(
            _sources_text(mirror, suites, debian_keyring())
        )
        (folder / "apt.conf").write_text(_configuration_text(folder))
        on_progress(f"reading the package lists of {' and '.join(suites)}")
        apt._run("apt-get", "update", limit_s=_UPDATE_LIMIT_S)
        return apt

    def download_closure(self, packages: Sequence[str], *, suite: str) -> tuple[Path, ...]:
        """Download packages and all their dependencies, even those that this machine has installed.

        Args:
            packages: Package names.
            suite: The suite whose versions are preferred.

        Returns:
            The package files, sorted by name.

        Raises:
            FetchError: apt could not resolve or download them.
        """
        self.on_progress(f"downloading {', '.join(packages)} from {suite} with all dependencies")
        self._run(
            "apt-get",
            "-t",
            suite,
            "-y",
            "--download-only",
            "install",
            *packages,
            limit_s=_DOWNLOAD_LIMIT_S,
        )
        return tuple(sorted((self.folder / "cache/archives").glob("*.deb")))

    def download_alone(self, packages: Sequence[str]) -> tuple[Path, ...]:
        """Download packages without what they depend on.

        Args:
            packages: Package names.

        Returns:
            The package files, sorted by name.

        Raises:
            FetchError: apt does not know them or could not download them.
        """
        self.on_progress(f"downloading {', '.join(packages)}")
        self._run("apt-get", "download", *packages, limit_s=_DOWNLOAD_LIMIT_S)
        return tuple(sorted(self.folder.glob("*.deb")))

    def first_dependency(self, package: str) -> str:
        """Find the package that a metapackage depends on, such as the current kernel.

        Args:
            package: Name of the metapackage.

        Returns:
            The name of its first dependency.

        Raises:
            FetchError: apt does not know the metapackage, or it has no dependency.
        """
        text = self._run("apt-cache", "depends", package, limit_s=_QUERY_LIMIT_S)
        for line in text.splitlines():
            key, _, value = line.strip().partition(": ")
            if key == "Depends":
                return value.strip()
        raise FetchError(f"package {package!r}: expected a dependency, found none")

    def _run(self, program: str, *arguments: str, limit_s: float) -> str:
        return run_text(
            [program, "-c", str(self.folder / "apt.conf"), *arguments],
            limit_s=limit_s,
            cwd=self.folder,
        )


def unpack(package_files: Iterable[Path], into: Path, *, leave_out: Sequence[str] = ()) -> None:
    """Unpack package files into one folder; no maintainer script runs.

    Args:
        package_files: `.deb` files; a later one replaces equal paths of an earlier one.
        into: Target folder; made if missing.
        leave_out: Paths inside the packages that are not unpacked, such as `./usr/share/doc`.

    Raises:
        FetchError: A package could not be unpacked.
    """
    into.mkdir(parents=True, exist_ok=True)
    excluded = [f"--exclude={path}" for path in leave_out]
    for package_file in package_files:
        archive = _run(["dpkg-deb", "--fsys-tarfile", str(package_file)], limit_s=_UNPACK_LIMIT_S)
        tar = ["tar", "-x", "--no-same-owner", "--no-same-permissions", "-C", str(into), *excluded]
        _run(tar, limit_s=_UNPACK_LIMIT_S, stdin=archive)


def run_text(argv: Sequence[str], *, limit_s: float, cwd: Path | None = None) -> str:
    """Run a program to its end and return what it wrote to standard output.

    Args:
        argv: Program and arguments.
        limit_s: The program is killed after this many seconds; positive.
        cwd: Folder it runs in.

    Returns:
        Its standard output.

    Raises:
        FetchError: The program could not be started, ended with another code than 0, or took longer
            than `limit_s`.
    """
    return _run(argv, limit_s=limit_s, cwd=cwd).decode(errors="replace")


def _run(
    argv: Sequence[str], *, limit_s: float, cwd: Path | None = None, stdin: bytes = b""
) -> bytes:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ended = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            timeout=limit_s,
            cwd=cwd,
            input=stdin,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{argv[0]} did not end within {limit_s:g} s: {' '.join(argv)}") from error
    except OSError as error:
        raise FetchError(f"{argv[0]} could not be started: {error}") from error
    if ended.returncode != 0:
        said = (
            ended.stderr.decode(errors="replace").strip()
            or ended.stdout.decode(errors="replace").strip()
        )
        raise FetchError(
            f"{argv[0]} ended with code {ended.returncode}: {' '.join(argv)}: {said[-2000:]}"
        )
    return ended.stdout


def _sources_text(mirror: str, suites: Sequence[str], keyring: Path) -> str:
    # "Targets" keeps apt from also fetching indexes that this machine's configuration adds, such as
    # AppStream's.
    return (
        "Types: deb\n"
        f"URIs: {mirror}\n"
        f"Suites: {' '.join(suites)}\n"
        "Components: main\n"
        "Architectures: amd64\n"
        "Targets: Packages\n"
        f"Signed-By: {keyring}\n"
    )


def _configuration_text(folder: Path) -> str:
    # apt reads the machine's own configuration first, which names the proxy. These settings then
    # take the machine's packages, pins and hooks out of it.
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "parts",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": folder / "empty",
        "Dir::State": folder / "state",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": "amd64",
        "APT::Default-Release": "",
        "APT::Install-Recommends": "0",
        "APT::Install-Suggests": "0",
        # Without this, root's apt downloads as the user _apt, who may not be able to enter our
        # folder.
        "APT::Sandbox::User": "root",
        # Without this, lists that could not be fetched are only a warning.
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
    }
    cleared = (
        "APT::Architectures",
        "APT::Update::Pre-Invoke",
        "APT::Update::Post-Invoke",
        "APT::Update::Post-Invoke-Success",
        "DPkg::Pre-Invoke",
        "DPkg::Post-Invoke",
        "DPkg::Pre-Install-Pkgs",
    )
    lines = [f"#clear {name};" for name in cleared]
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    lines.append('APT::Architectures { "amd64"; };')
    return "\n".join(lines) + "\n"


def _machine_sources(apt_dir: Path) -> list[AptSource]:
    found: list[AptSource] = []
    for path in sorted((apt_dir / "sources.list.d").glob("*.sources")):
        found.extend(parse_deb822(_read(path)))
    for path in [apt_dir / "sources.list", *sorted((apt_dir / "sources.list.d").glob("*.list"))]:
        found.extend(parse_one_line(_read(path)))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # absent, or not for us to read: then it names no archive to us
        return ""


def _stanzas(text: str) -> list[dict[str, str]]:
    stanzas: list[dict[str, str]] = [{}]
    key = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0].isspace():
            stanzas[-1][key] = f"{stanzas[-1].get(key, '')} {line.strip()}"
        else:
            name, _, value = line.partition(":")
            key = name.strip().lower()
            stanzas[-1][key] = value.strip()
    return [stanza for stanza in stanzas if stanza]


def _parse_line(line: str) -> AptSource | None:
    kind, _, rest = line.replace("\t", " ").strip().partition(" ")
    options = ""
    rest = rest.strip()
    if rest.startswith("["):
        options, _, rest = rest[1:].partition("]")
    fields = rest.split()
    if kind != "deb" or len(fields) < 2:  # noqa: PLR2004 - a URI and a suite
        return None
    signed_by = [
        option.partition("=")[2] for option in options.split() if option.startswith("signed-by=")
    ]
    return AptSource(
        uri=fields[0],
        suites=(fields[1],),
        components=tuple(fields[2:]),
        signed_by=" ".join(signed_by),
    )


def _is_debian_suite(suite: str) -> bool:
    base, _, pocket = suite.partition("-")
    return base in _DEBIAN_SUITES and "security" not in pocket and "/" not in suite
