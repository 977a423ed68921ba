"""Real servers for tests of storage: of the web, iSCSI, NFS and Ceph, fetched as QEMU builds are.

That of the web and that of iSCSI listen on a loopback address, for any user. Those of NFS and Ceph
find their files and ports where Debian has them, so each runs in a network of its own and in a root
folder of its own, which only root can make; whoever is to reach them enters that network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, final

import attrs
import pytest
from tests.certificates import Signed
from tests.debian import closure, loader
from typing_extensions import override

_LIMIT_S: Final = 60.0


# -- the web


class _Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.server.asked.append(self.path)
        self.server.answers.wait()
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size_bytes = file.stat().st_size
        first, last = self._range(size_bytes)
        is_part = "Range" in self.headers
        self.send_response(HTTPStatus.PARTIAL_CONTENT if is_part else HTTPStatus.OK)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size_bytes}")
        self.end_headers()
        if with_body:
            # Whoever asked may have given up.
            with file.open("rb") as stream, contextlib.suppress(ConnectionError):
                stream.seek(first)
                self.wfile.write(stream.read(last + 1 - first))

    def _range(self, size_bytes: int) -> tuple[int, int]:
        """The first and the last byte that are asked for."""
        _, _, asked = self.headers.get("Range", f"bytes=0-{size_bytes - 1}").partition("=")
        first, _, last = asked.partition("-")
        return int(first), min(int(last or size_bytes), size_bytes - 1)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@final
class WebServer(ThreadingHTTPServer):
    """A web server that offers the files of a folder, with ranges of bytes.

    Args:
        folder: The folder.
        address: Where it listens; it takes a free port there.
        signed: Its certificate, to serve over https; None for http.
    """

    daemon_threads = True

    def __init__(self, folder: Path, address: str, signed: Signed | None) -> None:
        super().__init__((address, 0), _Handler)
        self.scheme: Final = "http" if signed is None else "https"
        if signed is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(signed.cert, signed.key)
            # The handshake is made in the thread that answers, and delays no other connection.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.folder: Final = folder
        self.answers: Final = threading.Event()
        "Cleared, it accepts connections and does not answer."
        self.answers.set()
        self.asked: Final[list[str]] = []
        "The path of each request."

    def url(self, name: str) -> str:
        """Where it offers a file."""
        return f"{self.scheme}://{self.server_name}:{self.server_port}/{name}"


@contextmanager
def web_server(folder: Path, address: str, signed: Signed | None = None) -> Generator[WebServer]:
    """A web server that serves until the context is left."""
    with WebServer(folder, address, signed) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.answers.set()
            server.shutdown()
            thread.join()


# -- iSCSI


@final
@attrs.frozen(kw_only=True)
class IscsiServer:
    """An iSCSI server with a target for each name, whose first disk is LUN 1, by CHAP."""

    portal: str
    user: str
    secret_file: Path
    pid: int

    def target(self, name: str) -> str:
        """The name of a target."""
        return f"iqn.2026-01.com.example:{name}"

    def stop(self) -> None:
        """Freeze it."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def iscsi_server(
    folder: Path, address: str, names: Sequence[str], size_bytes: int
) -> Generator[IscsiServer]:
    """An iSCSI server, until the context is left.

    Args:
        folder: Where the contents of the disks and its own files are kept; short.
        address: Where it listens.
        names: One target for each.
        size_bytes: The size of each disk.
    """
    root = closure("tgt")
    environment = {**os.environ, "TGT_IPC_SOCKET": str(folder / "tgtd")}
    program = [*loader(root), str(root / "usr/sbin/tgtd")]
    secret = folder / "chap"
    secret.write_text("open sesame 12", encoding="ascii")
    with (folder / "tgtd.log").open("wb") as log, ExitStack() as stack:
        argv = [*program, "--foreground", "--iscsi", f"portal={address}:3260"]
        server = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        stack.callback(_end, server)
        _await(lambda: _listens(address, 3260), server, folder / "tgtd.log")
        made = IscsiServer(
            portal=f"{address}:3260", user="pycolo", secret_file=secret, pid=server.pid
        )

        def administer(*words: str) -> None:
            line = [*loader(root), str(root / "usr/sbin/tgtadm"), "--lld", "iscsi", *words]
            subprocess.run(line, env=environment, check=True, timeout=_LIMIT_S)

        login = ("--user", made.user)
        password = ("--password", secret.read_text(encoding="ascii"))
        administer("--mode", "account", "--op", "new", *login, *password)
        for number, name in enumerate(names, 1):
            _empty(folder / name, size_bytes)
            tid = ("--tid", str(number))
            administer("--mode", "target", "--op", "new", *tid, "-T", made.target(name))
            unit = ("--lun", "1", "--bstype", "rdwr", "-b", str(folder / name))
            administer("--mode", "logicalunit", "--op", "new", *tid, *unit)
            administer("--mode", "target", "--op", "bind", *tid, "-I", "ALL")
            administer("--mode", "account", "--op", "bind", *tid, *login)
        yield made


# -- NFS and Ceph


@contextmanager
def own_network(label: str) -> Generator[tuple[str, ...]]:
    """A network that has a loopback address alone, as the words that enter it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    name = f"pycolo-{os.getpid()}-{label}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr}")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield ("ip", "netns", "exec", name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


# In a mount namespace, the folder of packages becomes a root folder, into which the folder of the
# test is mounted under its own path.
_ROOT_FOLDER: Final = """\
set -eu
root=$1 own=$2
for name in bin lib lib64 sbin; do
  [ -e "$root/$name" ] || ln -s "usr/$name" "$root/$name"
done
mkdir -p "$root/dev" "$root/etc" "$root/proc" "$root/run" "$root/tmp" "$root/var"
mount --bind "$own/etc" "$root/etc"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for name in run tmp var; do mount -t tmpfs tmpfs "$root/$name"; done
mkdir -p "$root$own"
mount --bind "$own" "$root$own"
inside() { chroot "$root" "$@"; }
"""
_NFS: Final = """\
mkdir -p "$root/run/rpcbind" "$root/var/lib/nfs/ganesha" "$root/run/sendsigs.omit.d"
inside /usr/sbin/rpcbind -f -i &
while [ ! -S "$root/run/rpcbind.sock" ]; do sleep 0.05; done
exec chroot "$root" /usr/bin/ganesha.nfsd -F -L /dev/stderr -f /etc/ganesha.conf -p /run/nfs.pid
"""
_GANESHA: Final = """\
NFS_CORE_PARAM {{
  Protocols = 3; NFS_Port = 2049; MNT_Port = 2050;
  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
  allow_set_io_flusher_fail = true;
}}
EXPORT {{
  Export_Id = 1; Path = {0}; Pseudo = {0}; Protocols = 3; Access_Type = RW;
  Squash = No_Root_Squash; SecType = sys;
  FSAL {{ Name = VFS; }}
}}
"""
_NETWORKS: Final = """\
udp tpi_clts v inet udp - -
tcp tpi_cots_ord v inet tcp - -
local tpi_cots_ord - loopback - - -
"""
_SERVICES: Final = "sunrpc 111/tcp portmapper\nsunrpc 111/udp portmapper\n"


@contextmanager
def nfs_server(enter: Sequence[str], folder: Path) -> Generator[Path]:
    """An NFS server on 127.0.0.1 of a network, until the context is left.

    Args:
        enter: The words that enter the network.
        folder: Where its own files are kept.

    Yields:
        The folder that it exports, under the same path.
    """
    root = closure("nfs-ganesha", "nfs-ganesha-vfs", "rpcbind")
    exported = folder / "exported"
    exported.mkdir()
    files = {
        "ganesha.conf": _GANESHA.format(exported),
        "netconfig": _NETWORKS,
        "services": _SERVICES,
    }
    with _served(enter, root, folder, _NFS, files=files) as (server, log):
        _await(lambda: "NFS SERVER INITIALIZED" in log.read_text("utf-8"), server, log)
        yield exported


_CEPH: Final = """\
keys() { inside ceph-authtool "$own/keys" "$@"; }
keys --create-keyring --gen-key -n mon. --cap mon 'allow *'
keys --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
keys --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
inside monmaptool --create --addv a "[v2:127.0.0.1:3300,v1:127.0.0.1:6789]" --fsid "$3" "$own/map"
inside ceph-mon --mkfs -i a --monmap "$own/map" --keyring "$own/keys"
inside ceph-mon -i a -f &
inside ceph osd new "$3"
inside ceph auth add osd.0 -i "$own/keys"
inside ceph-osd -i 0 --mkfs --osd-uuid "$3"
inside ceph-osd -i 0 -f &
inside ceph osd pool create guests 1
inside rbd pool init guests
size=$4
shift 4
for name; do inside rbd create --size "${size}B" "guests/$name"; done
keys --print-key -n client.admin >"$own/key"
touch "$own/serves"
wait
"""
_CEPH_CONF: Final = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:3300,v1:127.0.0.1:6789]
mon_initial_members = a
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = 268435456
mon_data = {folder}/mon
osd_data = {folder}/osd
keyring = {folder}/keys
log_file =
log_to_stderr = true
run_dir = /run
"""
_FSID: Final = "5d3f9c1e-6a4b-4c59-9a33-0d7f0c1a2b3c"


@contextmanager
def ceph_cluster(
    enter: Sequence[str], folder: Path, names: Sequence[str], size_bytes: int
) -> Generator[Path]:
    """A Ceph cluster of one monitor and one storage daemon, which keeps all in its memory.

    Its monitor is at port 6789 of 127.0.0.1 of a network, and its pool is called `guests`.

    Args:
        enter: The words that enter the network.
        folder: Where its own files are kept.
        names: The images in the pool.
        size_bytes: The size of each image.

    Yields:
        The file with the key of its user `admin`.
    """
    root = closure("ceph-mon", "ceph-osd", "ceph-common")
    for name in ("mon", "osd"):
        (folder / name).mkdir()
    files = {"ceph/ceph.conf": _CEPH_CONF.format(fsid=_FSID, folder=folder)}
    words = (_FSID, str(size_bytes), *names)
    with _served(enter, root, folder, _CEPH, words, files=files) as (server, log):
        _await((folder / "serves").exists, server, log)
        yield folder / "key"


@contextmanager
def _served(
    enter: Sequence[str],
    root: Path,
    own: Path,
    script: str,
    words: Sequence[str] = (),
    *,
    files: Mapping[str, str],
) -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    """What a script runs in a root folder of its own, and its log, until the context is left.

    Args:
        enter: The words that enter its network.
        root: The packages.
        own: The folder of the test.
        script: What it runs.
        words: The arguments of the script, from the third on.
        files: Its files in /etc.
    """
    known = {
        "hosts": "127.0.0.1 localhost\n",
        "passwd": "root:x:0:0:root:/:/bin/sh\n_rpc:x:1:1::/:/bin/sh\n",
        "group": "root:x:0:\n",
    }
    for name, text in {**known, **files}.items():
        file = own / "etc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (own / "etc/mtab").symlink_to("/proc/self/mounts")
    # Whatever it starts ends with the first process of its namespace.
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    argv = [*enter, *alone, "sh", "-c", _ROOT_FOLDER + script, "sh", str(root), str(own), *words]
    log = own / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        try:
            yield server, log
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()


def _await(holds: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server serves."""
    end_s = time.monotonic() + _LIMIT_S
    while not holds():
        is_late = time.monotonic() > end_s or server.poll() is not None
        assert not is_late, log.read_text("utf-8", "replace")[-4000:]
        time.sleep(0.05)  # nothing announces that it serves


def _listens(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def _empty(file: Path, size_bytes: int) -> None:
    file.touch()
    os.truncate(file, size_bytes)
