#!/bin/sh
# failover of pair colo for QEMU on alpha 11.1.3 (dialect auto)
#
# It needs sh and python3 on every host, and talks to the control monitors as pycolo does. Between
# two steps it holds no connection: see that nobody else works on the nodes meanwhile.
#
# It ends with 0 when all is done, 1 when it was refused and nothing was changed, 3 when something
# was or may have been changed, and 4 where a person must decide.
set -eu

client=$(cat <<'END_OF_CLIENT'
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
    judge(command, answer, accepts)

def judge(command, answer, accepts):
    error = answer.get("error")
    text = answer.get("return")
    if isinstance(text, str) and text.strip():
        # The human monitor refuses by talking; drive_del talks where it succeeds too.
        if command["arguments"]["command-line"].startswith("drive_del "):
            end(0, text)
        error = {"class": "GenericError", "desc": text}
    if error is None:
        end(0)
    for accepted in accepts:
        if accepted["class"] == error["class"] and accepted["text"] in error["desc"]:
            end(0, "so already: " + error["desc"])
    end(1, "refused: %s (%s)" % (error["desc"], error["class"]))

def edges(monitor):
    graph = monitor.ask("x-debug-query-block-graph")
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    for edge in graph["edges"]:
        yield names.get(edge["parent"]), edge["name"], names.get(edge["child"])

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

def committed(monitor, replication, parent):
    # Merged when the replication node stands on the image itself and no copy is under way.
    copies = any(node["drv"] == "mirror_top" for node in block_nodes(monitor))
    return not copies and (replication, "file", parent) in edges(monitor)

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
    "child": lambda monitor, *edge: edge in edges(monitor),
    "size": size,
    "committed": committed,
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

try:
    {"send": send, "holds": holds, "listen": listen}[sys.argv[1]](*sys.argv[2:])
except OSError as error:
    end(1, str(error))
END_OF_CLIENT
)

# How a command reaches each node's host, and where its monitors are: correct these if need be.
on() {
  name=$1
  shift
  case $name in
    alpha) "$@" ;;
    beta) over_ssh 10.0.0.2 "$@" ;;
    *) echo "no node $name" >&2; return 1 ;;
  esac
}
control() {
  case $1 in
    alpha) printf '%s\n' unix:/run/pycolo/alpha/control.qmp ;;
    beta) printf '%s\n' unix:/run/pycolo/beta/control.qmp ;;
    *) echo "no node $1" >&2; return 1 ;;
  esac
}
observer() {
  case $1 in
    alpha) printf '%s\n' unix:/run/pycolo/alpha/observer.qmp ;;
    beta) printf '%s\n' unix:/run/pycolo/beta/observer.qmp ;;
    *) echo "no node $1" >&2; return 1 ;;
  esac
}
# Reaches a host that is not this one.
over_ssh() {
  address=$1
  shift
  ssh -n -o BatchMode=yes -- "$address" \
    "$(python3 -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' "$@")"
}

state=$(mktemp -d)
changed=
reliefs=
listeners=

say() { printf '%s\n' "$*" >&2; }

# Ends the script: 1 where nothing was changed, 3 where something was.
fail() {
  say "ended: $*"
  if [ -n "$changed" ]; then exit 3; fi
  exit 1
}

finish() {
  code=$?
  trap - EXIT
  trap '' INT TERM HUP
  set +e
  for relief in $reliefs; do
    say "relief:"
    "$relief"
  done
  for listener in $listeners; do kill "$listener" 2>/dev/null; done
  rm -rf "$state"
  exit "$code"
}
trap finish EXIT
trap 'say "interrupted"; exit 3' INT TERM HUP

# enter RELIEF, leave RELIEF: between the two, RELIEF runs when the script ends.
enter() { reliefs="$1 $reliefs"; }
leave() {
  kept=
  for relief in $reliefs; do
    if [ "$relief" != "$1" ]; then kept="$kept $relief"; fi
  done
  reliefs=$kept
}

# send NODE LIMIT_S LINE ACCEPTS RESCUE: a refusal ends the script, unless ACCEPTS has it.
send() {
  code=0
  on "$1" python3 -c "$client" send "$(control "$1")" "$2" "$3" "$4" "$5" || code=$?
  case $code in
    0) changed=yes ;;
    1) fail "$1 refused" ;;
    *) changed=yes; fail "what became of the last command is unknown: look at $1 before going on" ;;
  esac
}

# relieve NODE LIMIT_S LINE ACCEPTS RESCUE: the same, whatever the answer.
relieve() {
  say "   $1: $3"
  on "$1" python3 -c "$client" send "$(control "$1")" "$2" "$3" "$4" "$5" || :
}

# holds NODE PREDICATE ARGUMENT...: one question to QEMU.
holds() {
  asked=$1
  shift
  on "$asked" python3 -c "$client" holds "$(control "$asked")" "$@"
}

# COLO_EXIT and checkpoints are events, which QEMU forgets: the observer monitor is listened to.
listen() {
  on "$1" python3 -c "$client" listen "$(observer "$1")" >"$state/events.$1" &
  listeners="$listeners $!"
  tries=0
  until [ -s "$state/events.$1" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then fail "$1: nobody answers on the observer monitor"; fi
    sleep 0.1
  done
}
colo_exited() { grep -q '^COLO_EXIT$' "$state/events.$1"; }
no_colo_exit() { holds "$1" alive && ! colo_exited "$1"; }
mark() { wc -l <"$state/events.$1" >"$state/mark.$1.$2"; }
checkpoint_seen() {
  awk -v seen="$(cat "$state/mark.$1.$2")" \
    'NR > seen && /^STOP$/ { stop = 1 } NR > seen && /^RESUME$/ && stop { found = 1 }
     END { exit !found }' "$state/events.$1"
}

# wait_until LIMIT_S UNTIL UNLESS: asks again and again.
wait_until() {
  deadline=$(($(date +%s) + $1))
  until "$2"; do
    if "$3"; then fail "it will not come true any more"; fi
    if [ "$(date +%s)" -ge "$deadline" ]; then fail "it did not come true within $1 s"; fi
    sleep 0.2
  done
}
never() { false; }

# proven_dead NODE: only a person can answer that; the answer is kept.
proven_dead() {
  if [ -e "$state/dead.$1" ]; then return 0; fi
  say "Is the QEMU of node $1 proven dead: its process ended, or its host fenced?"
  say "Silence is no proof. If it runs on, the guest runs twice and its data are lost."
  printf 'Type yes to go on: ' >&2
  answer=
  read -r answer || :
  if [ "$answer" != yes ]; then
    say "ended: a person must decide"
    exit 4
  fi
  : >"$state/dead.$1"
}

# create_image NODE PATH SIZE_BYTES QEMU_IMG ARGUMENT...: one that exists is checked and kept.
create_image() {
  node=$1 path=$2 size=$3
  shift 3
  if on "$node" test -e "$path"; then
    found=$(on "$node" "$1" info -U --output=json -- "$path" |
      python3 -c 'import json, sys; print(json.load(sys.stdin)["virtual-size"])')
    if [ "$found" != "$size" ]; then fail "$path has $found bytes, not $size"; fi
    say "   it exists: kept"
    return 0
  fi
  on "$node" "$@" >&2 || fail "the image was not made"
  changed=yes
}

# launch NODE LIMIT_S RUN_DIR ARGUMENT...: starts a QEMU that outlives this script.
launch() {
  node=$1 limit=$2 run_dir=$3
  shift 3
  if ! holds "$node" gone; then fail "$node has a QEMU already"; fi
  on "$node" mkdir -p -m 0700 -- "$run_dir"
  changed=yes
  on "$node" setsid -f sh -c \
    'echo $$ >"$0/qemu.pid"; exec "$@" </dev/null >>"$0/qemu.log" 2>&1' "$run_dir" "$@"
  answers() { holds "$node" alive; }
  wait_until "$limit" answers never
}

# stop_qemu NODE LIMIT_S RUN_DIR: ends the QEMU of the pid file, and sees it end.
stop_qemu() {
  node=$1 limit=$2 run_dir=$3
  on "$node" sh -c 'test -e "$0/qemu.pid" && kill "$(cat "$0/qemu.pid")"' "$run_dir" ||
    fail "no QEMU of $run_dir to stop"
  changed=yes
  ended() { on "$node" sh -c '! kill -0 "$(cat "$0/qemu.pid")" 2>/dev/null' "$run_dir"; }
  wait_until "$limit" ended never
}

# the guest stands still
relief_1() {
  relieve alpha 10 '{"execute": "cont"}' '[]' '[{"exec-oob": "yank", "arguments": {"instances": [{"type": "block-node", "node-name": "nbd0"}]}}]'
}

# beta/dead: or split brain
say '1. go on only if beta is proven dead'
say 'the plan was compiled with beta dead: fenced by ops, 2026-01-02T03:04:05Z: pulled the plug'
if ! { proven_dead beta; }; then fail 'it does not hold'; fi

# alpha/yank/block-node:nbd0: the reason why (qemu-behaviour 1.1)
say '2. alpha: yank instances=[{type=block-node, node-name=nbd0}]'
send alpha 10 '{"exec-oob": "yank", "arguments": {"instances": [{"type": "block-node", "node-name": "nbd0"}]}}' '[{"class": "DeviceNotFound", "text": "Instance not found"}]' '[]'

# alpha/chardev-add/mirror0: the reason why (qemu-behaviour 1.1)
say '3. alpha: chardev-add id=mirror0 backend={type=socket, data={addr={type=unix, data={path="/run/a b.sock"}}, wait=false, server=true}}'
enter relief_1
send alpha 10 '{"execute": "chardev-add", "arguments": {"id": "mirror0", "backend": {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": "/run/a b.sock"}}, "wait": false, "server": true}}}}' '[]' '[{"exec-oob": "yank", "arguments": {"instances": [{"type": "block-node", "node-name": "nbd0"}]}}]'

# alpha/wait/running: the guest runs
say '4. wait until alpha has run state running, at most 2.5 s'
until_4() { holds alpha run-state running; }
unless_4() { holds alpha gone; }
wait_until 3 until_4 unless_4
leave relief_1
say 'the guest serves again'

# beta/image: for later
say '5. beta: create /vms/al'"'"'pha "1"/primary.qcow2'
create_image beta '/vms/al'"'"'pha "1"/primary.qcow2' 1048576 qemu-img create '/vms/al'"'"'pha "1"/primary.qcow2' 1048576

say 'failover of pair colo for QEMU on alpha 11.1.3 (dialect auto): done'
