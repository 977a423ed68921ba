"""The QMP client that a rendered script carries with it: Python, standard library only.

It is text here, because it runs on hosts that need not have pycolo. Ends with 0 for done or true,
1 for refused or false, 3 for unknown.
"""

from __future__ import annotations

from typing import Final

CLIENT: Final = r"""
import json, os, select, signal, socket, sys, time

LIMIT_S = 10.0

class Monitor:
    def __init__(self, address, limit_s, oob=False):
        self.until = time.monotonic() + limit_s
        kind, _, place = address.partition(":")
        if kind == "unix":
            self.link = socket.socket(socket.AF_UNIX)
            self.link.settimeout(limit_s)
            self.link.connect(place)
        else:
            host, _, port = place.rpartition(":")
            self.link = socket.create_connection((host, int(port)), limit_s)
        self.buffer = b""
        self.greeting = self.read()
        self.ask("qmp_capabilities", {"enable": ["oob"]} if oob else {})

    def read(self):
        while b"\n" not in self.buffer:
            self.link.settimeout(max(0.001, self.until - time.monotonic()))
            chunk = self.link.recv(65536)
            if not chunk:
                raise ConnectionError("QEMU hung up")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def put(self, message, name):
        self.link.sendall(json.dumps({**message, "id": name}).encode() + b"\n")

    def answer(self, name):
        while True:
            message = self.read()
            if message.get("id") == name:
                return message

    def ask(self, command, arguments=None):
        message = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        self.put(message, command)
        answer = self.answer(command)
        if "error" in answer:
            raise ValueError(answer["error"]["desc"])
        return answer["return"]

def end(code, words=""):
    if words:
        print("   " + " ".join(words.split()), file=sys.stderr)
    raise SystemExit(code)

def answered(monitor, command, rescue, limit_s):
    try:
        return monitor.answer("step")
    except socket.timeout:
        if not rescue:
            raise
        print("   no answer: yank", file=sys.stderr)
        monitor.until = time.monotonic() + limit_s
        for number, yank in enumerate(rescue):
            monitor.put(yank, "rescue%d" % number)
        return monitor.answer("step")

def send(address, limit_s, line, accepts="[]", rescue="[]"):
    # An interrupt takes effect between steps.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command, accepts, rescue = json.loads(line), json.loads(accepts), json.loads(rescue)
    limit_s = float(limit_s)
    try:
        monitor = Monitor(address, limit_s, "exec-oob" in command or bool(rescue))
    except (OSError, ValueError) as error:
        end(1, "not sent: %s: %s" % (address, error or "no greeting: the monitor is taken"))
    try:
        monitor.until = time.monotonic() + limit_s
        monitor.put(command, "step")
        answer = answered(monitor, command, rescue, limit_s)
    except OSError as error:
        if command.get("execute") == "quit" and isinstance(error, ConnectionError):
            end(0)
        end(3, "no answer, the effect is unknown: %s" % error)
    judge(monitor, command, answer, accepts)

def talk(monitor, line, reply):
    # The human monitor refuses by talking, and talks where it succeeds too.
    lines = (part.strip() for part in reply.splitlines())
    words = " ".join(w for w in lines if w and w != "OK" and "Failed flush for" not in w)
    if line.startswith("drive_del ") and words:
        there = Graph(monitor).find("block-driver", line.split(" ")[1])
        return words if there is not None else ""
    return words

def judge(monitor, command, answer, accepts):
    error = answer.get("error")
    if isinstance(answer.get("return"), str):
        words = talk(monitor, command["arguments"]["command-line"], answer["return"])
        error = {"class": "GenericError", "desc": words} if words else None
    if error is None:
        end(0)
    for accepted in accepts:
        if accepted["class"] == error["class"] and accepted["text"] in error["desc"]:
            end(0, "so already: " + error["desc"])
    end(1, "refused: %s (%s)" % (error["desc"], error["class"]))

class Graph:
    def __init__(self, monitor):
        graph = monitor.ask("x-debug-query-block-graph")
        self.nodes = {node["id"]: node for node in graph["nodes"]}
        self.edges = graph["edges"]

    def find(self, kind, name):
        return next(
            (n["id"] for n in self.nodes.values() if (n["type"], n["name"]) == (kind, name)), None
        )

    def below(self, parent):
        return {edge["name"]: edge["child"] for edge in self.edges if edge["parent"] == parent}

    def children(self, name):
        # A drive's id comes before a block node's name, as for x-blockdev-change.
        drive = self.find("block-backend", name)
        root = self.below(drive).get("root") if drive is not None else None
        return self.below(self.find("block-driver", name) if root is None else root)

    def name(self, node):
        return self.nodes.get(node, {"name": ""})["name"]

def block_nodes(monitor):
    return monitor.ask("query-named-block-nodes", {"flat": True})

def job(monitor, name):
    return next((found for found in monitor.ask("query-jobs") if found["id"] == name), None)

def job_is(monitor, name, *statuses):
    found = job(monitor, name)
    return found is not None and "error" not in found and found["status"] in statuses

def job_failed(monitor, name):
    found = job(monitor, name)
    return found is None or "error" in found

def chardev(monitor, name):
    return any(
        found["label"] == name and not found["filename"].startswith("disconnected:")
        for found in monitor.ask("query-chardev")
    )

def size(monitor, name, size_bytes):
    return any(
        node.get("node-name") == name and node["image"]["virtual-size"] == int(size_bytes)
        for node in block_nodes(monitor)
    )

def child(monitor, quorum, place, name):
    graph = Graph(monitor)
    return graph.name(graph.children(quorum).get(place)) == name

def committed(monitor, quorum):
    # Overlays stand below the quorum as a chain of nodes that were given names.
    graph = Graph(monitor)
    node = graph.below(graph.children(quorum).get("children.0")).get("file")
    named = 0
    while node is not None:
        named += graph.name(node)[:1] not in ("", "#")
        node = graph.below(node).get("backing")
    return named <= 1

KINDS = ("filter-mirror", "filter-redirector", "filter-rewriter", "colo-compare", "iothread")
FOREIGN = ("compat_monitor", "serial", "parallel")

def parts(monitor, expected):
    objects = monitor.ask("qom-list", {"path": "/objects"})
    found = {
        "block_nodes": [n.get("node-name", "#") for n in block_nodes(monitor)],
        "exports": [e["id"] for e in monitor.ask("query-block-exports")],
        "jobs": [found["id"] for found in monitor.ask("query-jobs")],
        "chardevs": [c["label"] for c in monitor.ask("query-chardev")],
        "objects": [o["name"] for o in objects if o["type"][6:-1] in KINDS],
    }
    found["block_nodes"] = [name for name in found["block_nodes"] if not name.startswith("#")]
    found["chardevs"] = [c for c in found["chardevs"] if c.rstrip("0123456789") not in FOREIGN]
    return {kind: sorted(names) for kind, names in found.items()} == json.loads(expected)

def version(monitor, expected):
    qemu = monitor.greeting["QMP"]["version"]["qemu"]
    return "%(major)d.%(minor)d.%(micro)d" % qemu == expected

PREDICATES = {
    "alive": lambda monitor: True,
    "run-state": lambda monitor, *states: monitor.ask("query-status")["status"] in states,
    "colo-mode": lambda monitor, mode: monitor.ask("query-colo-status")["mode"] == mode,
    "migration": lambda monitor, *s: monitor.ask("query-migrate").get("status", "none") in s,
    "job": job_is,
    "job-failed": job_failed,
    "chardev": chardev,
    "child": child,
    "size": size,
    "committed": committed,
    "parts": parts,
    "name": lambda monitor, name: monitor.ask("query-name").get("name", "") == name,
    "version": version,
}

def holds(address, predicate, *arguments):
    try:
        monitor = Monitor(address, LIMIT_S)
    except (ConnectionError, FileNotFoundError):
        end(0 if predicate == "gone" else 1)
    except (OSError, ValueError):
        end(1)
    if predicate == "gone":
        end(1)
    try:
        end(0 if PREDICATES[predicate](monitor, *arguments) else 1)
    except (OSError, ValueError) as error:
        end(1, "%s: %s" % (predicate, error))

def start_time(pid):
    try:
        with open("/proc/%d/stat" % pid, errors="replace") as stat:
            return int(stat.read().rpartition(")")[2].split()[19])
    except OSError:
        return None

def text(path):
    try:
        with open(path) as stream:
            return stream.read().strip()
    except OSError:
        return ""

def here():
    machine = text("/etc/machine-id")
    return {
        "boot_id": text("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": os.readlink("/proc/self/ns/pid"),
        "machine": "%s %s" % (machine, socket.gethostname()) if machine else "",
    }

def running(run_dir):
    # A pid file tells more than a number, so that another process is never taken for QEMU.
    try:
        known = json.loads(text(run_dir + "/qemu.pid"))
        now = here()
        if any(known[key] != now[key] for key in ("boot_id", "pid_namespace")):
            return None
        pidfd = os.pidfd_open(known["pid"])
    except (ValueError, KeyError, TypeError, OSError):
        return None
    same = start_time(known["pid"]) == known["start_time"]
    return pidfd if same and not select.select([pidfd], [], [], 0)[0] else None

def launch(run_dir, instance, *argv):
    os.makedirs(os.path.dirname(run_dir), exist_ok=True)
    try:
        os.mkdir(run_dir, 0o700)
    except FileExistsError:
        found = os.lstat(run_dir)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            end(1, run_dir + " must be ours and have mode 0700")
    if running(run_dir) is not None:
        end(1, "QEMU runs there already")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    pid = os.posix_spawnp(argv[0], argv, os.environ, setsid=True, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, run_dir + "/qemu.stderr", flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ], setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT])
    known = {"pid": pid, "start_time": start_time(pid), **here(), "instance": instance}
    with open(run_dir + "/qemu.new", "w") as stream:
        json.dump(known, stream)
    os.replace(run_dir + "/qemu.new", run_dir + "/qemu.pid")

def stop(run_dir, limit_s):
    pidfd = running(run_dir)
    if pidfd is None:
        end(0, "it did not run")
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(pidfd, number)
        if select.select([pidfd], [], [], float(limit_s) / 2)[0]:
            end(0)
    end(3, "it did not end")

def listen(address):
    monitor = Monitor(address, LIMIT_S)
    parent = os.getppid()
    print("LISTENING", flush=True)
    # A script that was killed cannot end its listeners.
    while os.getppid() == parent:
        if b"\n" in monitor.buffer or select.select([monitor.link], [], [], 1.0)[0]:
            monitor.until = time.monotonic() + LIMIT_S
            event = monitor.read().get("event")
            if event:
                print(event, flush=True)

MODES = {"send": send, "holds": holds, "listen": listen, "launch": launch, "stop": stop}
try:
    MODES[sys.argv[1]](*sys.argv[2:])
except OSError as error:
    end(1, str(error))
""".lstrip()
