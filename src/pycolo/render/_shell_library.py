"""The shell functions that every rendered script carries."""

from __future__ import annotations

from typing import Final

LIBRARY: Final = r"""
# Reaches a host that is not this one; the command there reads what this function reads.
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

# send NODE LIMIT_S LINE ACCEPTS RESCUE: a refusal ends the script, unless ACCEPTS has it.
send() {
  code=0
  on "$1" python3 -c "$client" send "$(control "$1")" "$2" "$3" "$4" "$5" </dev/null || code=$?
  case $code in
    0) changed=yes ;;
    1) fail "$1 refused" ;;
    *) changed=yes; fail "what became of the last command is unknown: look at $1 first" ;;
  esac
}

# recover NUMBER NODE LIMIT_S LINE ACCEPTS RESCUE: the same, once, whatever the answer.
recover() {
  case " $recovered " in *" $1 "*) return 0 ;; esac
  recovered="$recovered $1"
  shift
  say "   $1: $3"
  on "$1" python3 -c "$client" send "$(control "$1")" "$2" "$3" "$4" "$5" </dev/null || :
}

# holds NODE PREDICATE ARGUMENT...: one question to QEMU.
holds() {
  asked=$1
  shift
  on "$asked" python3 -c "$client" holds "$(control "$asked")" "$@" </dev/null
}

# COLO_EXIT, checkpoints and a guest's end are events, which QEMU forgets: the observer monitor is
# listened to.
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
# A COLO_EXIT of the run before says nothing about this one.
begin_colo() { wc -l <"$state/events.$1" >"$state/begun.$1"; }
no_colo_exit() { holds "$1" alive && ! colo_exited "$1"; }
powered_off() { grep -qx 'SHUTDOWN guest-shutdown' "$state/events.$1"; }
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

# proven_dead NODE INSTANCE EPOCH: only a person can answer that; the answer is kept. It is refused
# where that QEMU answers, or where its host knows that it runs; the host's own report is enough.
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

# not_alive NODE INSTANCE: ends the script where that QEMU, or one without a name, is there.
not_alive() {
  if holds "$1" name "$2" 2>/dev/null; then fail "$2 answers"; fi
  if ! at_host "$1" alive "$(process "$1")"; then return 0; fi
  if grep -qF "\"$2\"" "$state/answer"; then fail "$2 runs, as its host reports"; fi
  if grep -q '"instance": ""' "$state/answer" && ! grep -q '"how": ""' "$state/answer"; then
    fail "$1: something serves its monitor"
  fi
}

# ended KIND NODE INSTANCE EPOCH WHO HOW: what a promotion rests on, for its record.
ended() {
  python3 -c "$client" evidence "$1" "$2" "$3" "$4" "$5" "$6" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
    >"$state/evidence"
  : >"$state/dead.$2"
}

# at_host NODE NAME JSON: what is done with files and processes, in one step of the host's own. The
# helper is read by the command: it is longer than what Linux takes as one word, 128 KiB, once ssh
# has quoted it.
at_host() {
  code=0
  printf '%s\n' "$helper" | on "$1" python3 -c 'import sys
helper = sys.stdin.read()
exec(helper)
raise SystemExit(main([*sys.argv[1:], helper]))' "$2" "$3" >"$state/answer" || code=$?
  return "$code"
}

# not_running NODE: neither a monitor nor the host shows a QEMU of the node; true if none answers.
not_running() {
  if holds "$1" alive 2>/dev/null; then return 1; fi
  at_host "$1" alive "$(process "$1")" || return 0
  grep -q '"how": ""' "$state/answer"
}

# record NODE KEPT LIMIT_S EXPECTS BECOMES: the node's own file, if it still is what was read.
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

# host NODE NAME JSON: makes an image, starts a QEMU that outlives this script, ends one, or checks
# ports or devices.
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

# maybe COMMAND...: what may fail; the script continues.
maybe() { ( recoveries=; listeners=; "$@" ) || say "   it was not done, and need not be"; }
""".lstrip()
