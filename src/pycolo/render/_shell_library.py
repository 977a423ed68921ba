"""The shell functions that every rendered script carries."""

from __future__ import annotations

from typing import Final

LIBRARY: Final = r"""
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
relieved=
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

# relieve NUMBER NODE LIMIT_S LINE ACCEPTS RESCUE: the same, once, whatever the answer.
relieve() {
  case " $relieved " in *" $1 "*) return 0 ;; esac
  relieved="$relieved $1"
  shift
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
  echo 0 >"$state/begun.$1"
  on "$1" python3 -c "$client" listen "$(observer "$1")" >"$state/events.$1" &
  listeners="$listeners $!"
  tries=0
  until [ -s "$state/events.$1" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then fail "$1: nobody answers on the observer monitor"; fi
    sleep 0.1
  done
}
colo_exited() {
  awk -v seen="$(cat "$state/begun.$1")" \
    'NR > seen && /^COLO_EXIT$/ { found = 1 } END { exit !found }' "$state/events.$1"
}
# A COLO_EXIT of the run before says nothing about this one.
begin_colo() { wc -l <"$state/events.$1" >"$state/begun.$1"; }
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

# launch NODE LIMIT_S RUN_DIR INSTANCE ARGUMENT...: starts a QEMU that outlives this script.
launch() {
  node=$1 limit=$2
  shift 2
  if ! holds "$node" gone; then fail "$node has a QEMU already"; fi
  on "$node" python3 -c "$client" launch "$@" || fail "$node: QEMU was not started"
  changed=yes
  answers() { holds "$node" alive; }
  wait_until "$limit" answers never
}

# stop_qemu NODE LIMIT_S RUN_DIR: ends the QEMU of the pid file, and sees it end.
stop_qemu() {
  code=0
  on "$1" python3 -c "$client" stop "$3" "$2" || code=$?
  changed=yes
  if [ "$code" -ne 0 ]; then fail "$1: its QEMU did not end"; fi
}
""".lstrip()
