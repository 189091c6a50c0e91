#!/usr/bin/env bash
# N processes of one run on this machine.
#
#   launch/local.sh N --config=configs/dml.py --workdir=DIR [more flags of chexjax.main]
#
# The first process prepares the films while the others wait; its output is shown, that of the others goes to
# DIR/process-I.log. When one fails, the others are ended and its status is this script's. SIGTERM is passed on: the run saves its
# step, and the status is 75. So does Ctrl-C, with status 130; a second one ends all at once. Give the same command again to resume.
set -euo pipefail

usage() {
  echo "usage: launch/local.sh N --config=FILE --workdir=DIR [--config.FIELD=VALUE ...]" >&2
  exit 2
}
[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift
workdir=
for flag in "$@"; do
  case $flag in --workdir=*) workdir=${flag#--workdir=} ;; esac
done
[[ -n $workdir ]] || usage
mkdir -p "$workdir"

port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count

processes=()
# JAX's coordination service takes SIGTERM for a notice of preemption and lives on: only KILL ends a waiting process.
end_all() { kill -KILL "${processes[@]}" 2>/dev/null || true; }
trap end_all EXIT
woken=
interrupted=
interrupt() {
  [[ -z $interrupted ]] || exit 130
  interrupted=yes woken=yes
  echo "Ctrl-C: stopping after this step, which is saved; Ctrl-C again stops at once" >&2
  kill -TERM "${processes[@]}" 2>/dev/null || true
}
trap interrupt INT
trap 'woken=yes; kill -TERM "${processes[@]}" 2>/dev/null || true' TERM

for ((place = 0; place < count; place++)); do
  export JAX_PROCESS_ID=$place
  if ((place == 0)); then
    python -m chexjax.main --distributed "$@" &
  else
    python -m chexjax.main --distributed "$@" >"$workdir/process-$place.log" 2>&1 &
  fi
  processes+=($!)
done
stopped=75 # chexjax.errors.STOPPED_STATUS: saved, and wants to be started again
result=0
left=$count
while ((left > 0)); do
  status=0
  wait -n || status=$?
  if [[ -n $woken ]]; then # it was the signal that ended the waiting
    woken=
    continue
  fi
  left=$((left - 1))
  if ((status == stopped)); then
    result=$stopped # the others are about to end likewise
  elif ((status != 0)); then
    echo "a process ended with status $status; its last words are above, or these of $workdir/process-*.log:" >&2
    ((count == 1)) || tail -q -n 3 "$workdir"/process-*.log >&2
    exit "$status"
  fi
done
[[ -z $interrupted || $result != "$stopped" ]] || result=130
exit "$result"
