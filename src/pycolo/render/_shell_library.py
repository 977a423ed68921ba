"""The shell functions that every rendered script carries."""

from __future__ import annotations

from typing import Final

LIBRARY: Final = r"""
# Runs a command on another host; it reads what this function reads.
over_ssh() {
  address=$1
  shift
  ssh -o BatchMode=yes -o ConnectTimeout=5 -- "$address" \
    "$(python3 -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' "$@")"
}

state=$(mktemp -d)
changed=
recoveries=
recovered=
listeners=

say() { printf '%s\n' "$*" >&2; }

# Ends the script with 1 if nothing was changed, or 3 if something was.
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
  for recovery in $recoveries; do
    say "recovery:"
    "$recovery"
  done
  for listener in $listeners; do kill "$listener" 2>/dev/null; done
  rm -rf "$state"
  exit "$code"
}
trap finish EXIT
trap 'say "interrupted"; exit 3' INT TERM HUP

# enter RECOVERY, leave RECOVERY: between the two, RECOVERY runs when the script ends.
enter() { recoveries="$1 $recoveries"; }
leave() {
  kept=
  for recovery in $recoveries; do
    if [ "$recovery" != "$1" ]; then kept="$kept $recovery"; fi
  done
  recoveries=$kept
}

# send NODE LIMIT_S LINE ACCEPTS RESCUE: sends LINE to the node's QEMU. A refusal ends the script,
# unless ACCEPTS lists it. RESCUE holds the yanks to send if no answer comes in time.
send() {
  code=0
  on "$1" python3 -c "$client" send "$(control "$1")" "$2" "$3" "$4" "$5" </dev/null || code=$?
  case $code in
    0) changed=yes ;;
    1) fail "$1 refused" ;;
    *) changed=yes; fail "the outcome of the last command is unknown: check $1 first" ;;
  esac
}

# recover NUMBER NODE LIMIT_S LINE ACCEPTS RESCUE: like send, but the recovery step NUMBER is sent
# once only, and a refusal does not end the script.
recover() {
  case " $recovered " in *" $1 "*) return 0 ;; esac
  recovered="$recovered $1"
  shift
  say "   $1: $3"
  on "$1" python3 -c "$client" send "$(control "$1")" "$2" "$3" "$4" "$5" </dev/null || :
}

# holds NODE PREDICATE ARGUMENT...: asks QEMU once; true if the predicate holds.
holds() {
  asked=$1
  shift
  on "$asked" python3 -c "$client" holds "$(control "$asked")" "$@" </dev/null
}

# COLO_EXIT, checkpoints, failed writes and a guest's end are events, which QEMU does not keep. So a
# listener on the observer monitor writes them to a file.
listen() {
  echo 0 >"$state/begun.$1"
  on "$1" python3 -c "$client" listen "$(observer "$1")" </dev/null >"$state/events.$1" &
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
# From here on only a later COLO_EXIT counts, not one of an earlier COLO run.
begin_colo() { wc -l <"$state/events.$1" >"$state/begun.$1"; }
no_colo_exit() { holds "$1" alive && ! colo_exited "$1"; }
replicates() { holds "$1" alive && ! grep -qxF "QUORUM_REPORT_BAD $2" "$state/events.$1"; }
powered_off() { grep -qx 'SHUTDOWN guest-shutdown' "$state/events.$1"; }
mark() { wc -l <"$state/events.$1" >"$state/mark.$1.$2"; }
checkpoint_seen() {
  awk -v seen="$(cat "$state/mark.$1.$2")" \
    'NR > seen && /^STOP$/ { stop = 1 } NR > seen && /^RESUME$/ && stop { found = 1 }
     END { exit !found }' "$state/events.$1"
}

# wait_until LIMIT_S UNTIL UNLESS: asks repeatedly until UNTIL is true. It ends the script when
# UNLESS is true or the limit has passed.
wait_until() {
  deadline=$(($(date +%s) + $1))
  until "$2"; do
    if "$3"; then fail "it will not come true any more"; fi
    if [ "$(date +%s)" -ge "$deadline" ]; then fail "it did not come true within $1 s"; fi
    sleep 0.2
  done
}
never() { false; }

# proven_dead NODE INSTANCE EPOCH: asks a person whether that QEMU has ended, and keeps the answer.
# If the QEMU answers, or its host reports that it runs, the script ends. If the script itself has
# ended the QEMU on its host, nobody is asked.
proven_dead() {
  if [ -e "$state/dead.$1" ]; then return 0; fi
  not_alive "$@"
  say "Has the QEMU $2 of node $1 ended, or was its host fenced?"
  say "No answer is not proof of death. If it still runs, two guests run and data is lost."
  printf 'Type yes to continue: ' >&2
  answer=
  read -r answer || :
  if [ "$answer" != yes ]; then
    say "ended: a person must decide"
    exit 4
  fi
  not_alive "$@"
  ended fence "$1" "$2" "$3" "$(id -un)" "a person said so when this script asked"
}

# not_alive NODE INSTANCE: ends the script if that QEMU, or one without a name, runs on the node.
not_alive() {
  if holds "$1" name "$2" 2>/dev/null; then fail "$2 answers"; fi
  if ! at_host "$1" alive "$(process "$1")"; then return 0; fi
  if grep -qF "\"$2\"" "$state/answer"; then fail "$2 runs, as its host reports"; fi
  if grep -q '"instance": ""' "$state/answer" && ! grep -q '"how": ""' "$state/answer"; then
    fail "$1: something serves its monitor"
  fi
}

# ended KIND NODE INSTANCE EPOCH WHO HOW: keeps the evidence that a QEMU has ended, for the record.
ended() {
  python3 -c "$client" evidence "$1" "$2" "$3" "$4" "$5" "$6" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    >"$state/evidence"
  : >"$state/dead.$2"
}

# at_host NODE NAME JSON: runs the helper on the node's host, which works on files and processes
# there. Its answer is kept in a file. The helper goes as input: once it is quoted for ssh, it is
# longer than the 128 KiB that Linux takes as one argument.
at_host() {
  code=0
  printf '%s\n' "$helper" | on "$1" python3 -c 'import sys
helper = sys.stdin.read()
exec(helper)
raise SystemExit(main([*sys.argv[1:], helper]))' "$2" "$3" >"$state/answer" || code=$?
  return "$code"
}

# not_running NODE: true if neither the monitor nor the host shows a QEMU of the node, or if neither
# of them answers.
not_running() {
  if holds "$1" alive 2>/dev/null; then return 1; fi
  at_host "$1" alive "$(process "$1")" || return 0
  grep -q '"how": ""' "$state/answer"
}

# record NODE KEPT LIMIT_S EXPECTS BECOMES: writes the record BECOMES to the node's own file, if the
# file still holds the record EXPECTS.
record() {
  evidence=null
  if [ -e "$state/evidence" ]; then evidence=$(cat "$state/evidence"); fi
  request=$(python3 -c "$client" request "$2" "$3" "$4" "$5" "$evidence")
  code=0
  at_host "$1" swap "$request" || code=$?
  case $code in
    0) ;;
    1) fail "$1: its record was not written" ;;
    *) changed=yes; fail "$1: it is not known whether its record was written" ;;
  esac
  if ! grep -q '"written": true' "$state/answer"; then
    fail "$1: its record is not what it was: somebody else has changed it"
  fi
  changed=yes
}

# host NODE NAME JSON: creates an image, starts a QEMU that outlives this script, ends a QEMU, or
# checks ports or devices.
host() {
  code=0
  at_host "$@" || code=$?
  case $code in
    0)
      if grep -q '"there": true' "$state/answer"; then say '   it exists: kept'
      else case $2 in check_*) ;; *) changed=yes ;; esac; fi ;;
    1) fail "$1: it was not done" ;;
    *) changed=yes; fail "$1: it is not known whether it was done" ;;
  esac
}

# maybe COMMAND...: runs a command that may fail; the script continues then.
maybe() { ( recoveries=; listeners=; "$@" ) || say "   it was not done, and need not be"; }
""".lstrip()
