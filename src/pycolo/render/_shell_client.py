"""The QMP client that a rendered script carries with it: Python, standard library only.

The program is a text here, because it runs on hosts that need not have pycolo. It ends with 0 for
done or true, 1 for refused or false, and 3 for unknown.
"""

from __future__ import annotations

from typing import Final

CLIENT: Final = r"""
import base64, hashlib, json, os, select, signal, socket, sys, time

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
    # An interrupt is ignored here, so that it takes effect between two steps.
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
    conclude(monitor, command, answer, accepts)

def human_refusal(monitor, line, reply):
    # The human monitor reports a refusal as text, and may also print text if it succeeds.
    lines = (part.strip() for part in reply.splitlines())
    words = " ".join(w for w in lines if w and w != "OK" and "Failed flush for" not in w)
    if line.startswith("drive_del ") and words:
        there = Graph(monitor).find("block-driver", line.split(" ")[1])
        return words if there is not None else ""
    return words

def conclude(monitor, command, answer, accepts):
    error = answer.get("error")
    if isinstance(answer.get("return"), str):
        words = human_refusal(monitor, command["arguments"]["command-line"], answer["return"])
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
    # Overlays are nodes with names of their own, in a chain below the quorum.
    graph = Graph(monitor)
    node = graph.below(graph.children(quorum).get("children.0")).get("file")
    named = 0
    while node is not None:
        named += graph.name(node)[:1] not in ("", "#")
        node = graph.below(node).get("backing")
    return named <= 1

KINDS = ("filter-mirror", "filter-redirector", "filter-rewriter", "colo-compare", "iothread")
FOREIGN = ("compat_monitor", "serial", "parallel", "charmonitor")

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

def fill(state, evidence):
    # The record of a node that continues holds the evidence, which is known only at this moment.
    if state is None or evidence is None or state["epoch"] <= evidence["epoch"]:
        return state
    return {**state, "evidence": evidence}

def request(kept, limit_s, expects, becomes, evidence):
    # The request to the helper: the digest of the expected file, and the data that replace it.
    expects, becomes, evidence = (json.loads(text) for text in (expects, becomes, evidence))
    texts = [
        json.dumps(fill(state, evidence), ensure_ascii=False) + "\n" for state in (expects, becomes)
    ]
    digest = None if expects is None else hashlib.sha256(texts[0].encode()).hexdigest()
    data = base64.b64encode(texts[1].encode()).decode()
    found = {"expects": digest, "data": data, "limit_s": float(limit_s)}
    print(json.dumps({**json.loads(kept), **found}))

def evidence(kind, node, instance, epoch, who, how, when):
    print(json.dumps({"kind": kind, "node": node, "instance": instance, "epoch": int(epoch),
                      "who": who, "how": how, "when": when}))

def listen(address):
    monitor = Monitor(address, LIMIT_S)
    parent = os.getppid()
    print("LISTENING", flush=True)
    # If the script was killed, it cannot end its listeners, so each ends by itself.
    while os.getppid() == parent:
        if b"\n" in monitor.buffer or select.select([monitor.link], [], [], 1.0)[0]:
            monitor.until = time.monotonic() + LIMIT_S
            message = monitor.read()
            event = message.get("event")
            if event == "SHUTDOWN":
                event += " " + message["data"]["reason"]
            if event == "QUORUM_REPORT_BAD":
                event += " " + message["data"]["node-name"]
            if event:
                print(event, flush=True)

MODES = {"send": send, "holds": holds, "listen": listen, "request": request, "evidence": evidence}
try:
    MODES[sys.argv[1]](*sys.argv[2:])
except OSError as error:
    end(1, str(error))
""".lstrip()
