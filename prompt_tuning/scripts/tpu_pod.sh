#!/usr/bin/env bash
# Creates a TPU VM or a pod slice, runs a command on all its hosts, and deletes it. See docs/pods.md.
#
#   export NAME=pod ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#   ./tpu_pod.sh create
#   ./tpu_pod.sh install
#   ./tpu_pod.sh run python3 -m prompt_tuning.train --gin_file=... --gin.MODEL_DIR="'gs://bucket/run'"
#   ./tpu_pod.sh logs
#   ./tpu_pod.sh stop
#   ./tpu_pod.sh delete
#
# Sub-commands:
#   create   requests the slice and waits until it is ready; run it again to keep waiting. Additional gcloud flags come
#            after --, such as -- --service-account=ACCOUNT
#   install  copies this clone to every host and installs it there, in a virtual environment
#   run      starts a command on every host, in the background
#   logs     follows the output of a host until its run ends, and exits with the run's status
#   stop     ends the run, and leftover python processes that hold the TPU: SIGTERM, then SIGKILL
#   delete   deletes the slice; gcloud asks first. Additional gcloud flags come after --, such as -- --quiet
#
# Settings, as variables or as flags (NAME=pod or --name=pod), flags first, then the command:
#   NAME           name of the slice
#   ZONE           for example us-west4-a
#   PROJECT        Google Cloud project; default: that of `gcloud config`
#   TYPE           accelerator type, such as v5litepod-16 (create)
#   VERSION        TPU software version, such as v2-alpha-tpuv5-lite (create)
#   SPOT           1 (or --spot): cheaper, but may be preempted (create)
#   PLAIN          1 (or --plain): a TPU VM that is not a queued resource; use it with every sub-command
#   WAIT_MINUTES   how long create waits; default 60
#   EXTRAS         extras of the package to install; default tpu,gcs
#   WORKER         the host whose log is followed, or all; default 0
#   GRACE_SECONDS  time between SIGTERM and SIGKILL; default 120
#   DRY_RUN        1 (or --dry_run): prints the commands and runs none; gcloud need not be installed
set -euo pipefail

# ---- Functions that run on the hosts; their source is sent there. ----

install_here() {  # EXTRAS
  set -e
  mkdir -p ~/prompt_tuning_pod
  rm -rf ~/prompt_tuning_pod/prompt_tuning  # removes files that were deleted from the clone
  tar -xzf ~/prompt_tuning.tgz -C ~/prompt_tuning_pod
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv  # provides a recent Python
  python3 -m uv venv --quiet --allow-existing --python 3.11 ~/prompt_tuning_pod/venv
  python3 -m uv pip install --quiet --python ~/prompt_tuning_pod/venv/bin/python ~/prompt_tuning_pod"[$1]"
  ~/prompt_tuning_pod/venv/bin/prompt-tuning --help >/dev/null
  echo "$(hostname): installed."
}

start_here() {  # COMMAND...
  local run
  cd ~/prompt_tuning_pod || { echo "$(hostname): there is no ~/prompt_tuning_pod. Run install first." >&2; return 2; }
  run="$(cat run.pid 2>/dev/null || true)"
  if grep -qs prompt_tuning_run "/proc/${run:-none}/cmdline"; then
    echo "$(hostname): a run is in progress. Follow it with logs, or end it with stop." >&2
    return 1
  fi
  rm -f run.status
  export PATH="$HOME/prompt_tuning_pod/venv/bin:$PATH"
  # A separate process group, named prompt_tuning_run. Bash waits for the command to end, to record its status.
  setsid nohup bash -c 'trap : TERM; "$@"; echo $? > run.status' prompt_tuning_run "$@" >> run.log 2>&1 < /dev/null &
  echo $! > run.pid
  echo "$(hostname): started."
}

follow_here() {
  cd ~/prompt_tuning_pod && [ -e run.pid ] || { echo "$(hostname): nothing was run here." >&2; return 2; }
  tail -n 100 -F --pid="$(cat run.pid)" run.log
  [ -e run.status ] || { echo "$(hostname): the run was killed, or the host restarted." >&2; return 137; }
  echo "$(hostname): the run ended with exit status $(cat run.status)."
  return "$(cat run.status)"
}

as_root() {
  if sudo -n true 2>/dev/null; then sudo -n "$@"; else "$@"; fi
}

holders() {  # prints the python processes that hold the TPU
  local process
  for process in $(as_root find /proc/[0-9]*/fd \( -lname '/dev/accel*' -o -lname '/dev/vfio/[0-9]*' \) 2>/dev/null |
                   cut -d/ -f3 | sort -u); do
    case "$(as_root readlink "/proc/$process/exe")" in */python*) echo "$process" ;; esac
  done
}

left() {  # GROUP: prints its processes and the holders, each once: a second SIGTERM would end a run while it saves
  { ps -eo pid=,pgid=,stat= | awk -v group="$1" '$2 == group && $3 !~ /^Z/ {print $1}'; holders; } | sort -u
}

stop_here() {  # SECONDS
  local run='' processes second
  if cd ~/prompt_tuning_pod 2>/dev/null; then run="$(cat run.pid 2>/dev/null || true)"; fi
  # After a restart of the host, the process ID may belong to another program.
  grep -qs prompt_tuning_run "/proc/${run:-none}/cmdline" || run=none
  processes="$(left "$run")"
  [ -n "$processes" ] || { echo "$(hostname): nothing was running."; return 0; }
  # shellcheck disable=SC2086  # several numbers
  as_root kill -TERM $processes 2>/dev/null || true
  for ((second = 0; second < $1; second++)); do
    processes="$(left "$run")"
    [ -n "$processes" ] || { echo "$(hostname): ended, with exit status $(cat run.status 2>/dev/null)."; return 0; }
    sleep 1
  done
  # shellcheck disable=SC2086
  as_root kill -KILL $processes 2>/dev/null || true
  as_root rm -f /tmp/libtpu_lockfile  # killed processes leave it, and it blocks other users of the TPU
  echo "$(hostname): not ended within $1 s, and killed: $(echo "$processes" | tr '\n' ' ')" >&2
  return 1
}

# ---- Functions that run here. ----

fail() {
  echo "tpu_pod.sh: $*" >&2
  exit 2
}

is_on() {
  case "${1:-}" in '' | 0 | false) return 1 ;; esac
}

# Prints words as one line, quoted for a shell.
quote() {
  local word mark="'" escaped="'\\''"
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//$mark/$escaped}'"
    printf '%s ' "$word"
  done
}

# Prints a command, then runs it unless --dry_run is set.
show_and_run() {
  if is_on "$DRY_RUN"; then
    printf '%s\n' "$(quote "$@")"
  else
    printf '%s\n' "$(quote "$@")" >&2
    "$@"
  fi
}

# Runs a function on one worker or on all: on_worker WORKER 'REQUIRED FUNCTIONS' FUNCTION ARGUMENT...
on_worker() {
  local worker="$1" functions="$2"
  shift 2
  # shellcheck disable=SC2086  # several names
  show_and_run gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker="$worker" \
    --command="$(declare -f $functions; quote "$@")"
}

need() {  # VARIABLE 'WHAT IT IS'
  [ -n "${!1:-}" ] || fail "$1 is not set. Give --$(echo "$1" | tr '[:upper:]' '[:lower:]')=..., or export $1: $2."
}

create() {
  local ready=ACTIVE state='' minute
  local ask=(gcloud compute tpus queued-resources create "$NAME" "${PLACE[@]}" --node-id="$NAME"
             --accelerator-type="$TYPE" --runtime-version="$VERSION")
  local look=(gcloud compute tpus queued-resources describe "$NAME" "${PLACE[@]}" '--format=value(state.state)')
  if is_on "$PLAIN"; then
    ready=READY
    ask=(gcloud compute tpus tpu-vm create "$NAME" "${PLACE[@]}" --accelerator-type="$TYPE" --version="$VERSION")
    look=(gcloud compute tpus tpu-vm describe "$NAME" "${PLACE[@]}" '--format=value(state)')
  fi
  if is_on "$SPOT"; then ask+=(--spot); fi
  if is_on "$DRY_RUN"; then
    show_and_run "${ask[@]}" "$@"
    show_and_run "${look[@]}"
    return
  fi
  state="$("${look[@]}" 2>/dev/null || true)"
  [ -n "$state" ] || show_and_run "${ask[@]}" "$@"
  for ((minute = 0; ; minute++)); do
    state="$(show_and_run "${look[@]}")"
    case "$state" in
      "$ready") echo "$NAME is ready. Next: install."; return ;;
      FAILED | SUSPEND* | DELETING | STOP* | PREEMPTED | TERMINATED)
        fail "$NAME is $state: it was refused or preempted. Run delete, then create again, perhaps with another" \
             "ZONE or TYPE. To see the reason: $(quote "${look[@]:0:6}" "${PLACE[@]}")" ;;
    esac
    ((minute < WAIT_MINUTES)) || break
    echo "$NAME is ${state:-not known yet}; checking again in a minute ($minute of $WAIT_MINUTES)." >&2
    sleep 60
  done
  echo "tpu_pod.sh: $NAME is still ${state:-not known} after $WAIT_MINUTES minutes. It keeps its place in the queue:" \
       "run create again to keep waiting (WAIT_MINUTES sets how long), or delete to give up." >&2
  exit 1
}

install() {
  local clone
  clone="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
  [ -e "$clone/pyproject.toml" ] || fail "$clone is not a clone of prompt_tuning. Run tpu_pod.sh from a clone."
  show_and_run tar -czf "$ARCHIVE" -C "$clone" --exclude=__pycache__ pyproject.toml setup.py README.md LICENSE \
    prompt_tuning
  show_and_run gcloud compute tpus tpu-vm scp "$ARCHIVE" "$NAME:prompt_tuning.tgz" "${PLACE[@]}" --worker=all
  on_worker all install_here install_here "$EXTRAS"
}

delete() {
  if is_on "$PLAIN"; then
    show_and_run gcloud compute tpus tpu-vm delete "$NAME" "${PLACE[@]}" "$@"
  else
    show_and_run gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force "$@"
  fi
}

NAME="${NAME:-}" ZONE="${ZONE:-}" PROJECT="${PROJECT:-}" TYPE="${TYPE:-}" VERSION="${VERSION:-}"
SPOT="${SPOT:-}" PLAIN="${PLAIN:-}" DRY_RUN="${DRY_RUN:-}"
WAIT_MINUTES="${WAIT_MINUTES:-60}" EXTRAS="${EXTRAS:-tpu,gcs}" WORKER="${WORKER:-0}" GRACE_SECONDS="${GRACE_SECONDS:-120}"
ARCHIVE="${TMPDIR:-/tmp}/prompt_tuning.tgz"
COMMANDS='create install run logs stop delete'

SUBCOMMAND="${1:-}"
case "$SUBCOMMAND" in
  create | install | run | logs | stop | delete) shift ;;
  -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
  '') fail "no sub-command is given. Use one of: $COMMANDS. See --help." ;;
  *) fail "there is no sub-command $SUBCOMMAND. Use one of: $COMMANDS." ;;
esac

while (($#)); do
  case "$1" in
    --dry_run) DRY_RUN=1 ;;
    --spot) SPOT=1 ;;
    --plain) PLAIN=1 ;;
    --name=*) NAME="${1#*=}" ;;
    --zone=*) ZONE="${1#*=}" ;;
    --project=*) PROJECT="${1#*=}" ;;
    --type=*) TYPE="${1#*=}" ;;
    --version=*) VERSION="${1#*=}" ;;
    --wait_minutes=*) WAIT_MINUTES="${1#*=}" ;;
    --extras=*) EXTRAS="${1#*=}" ;;
    --worker=*) WORKER="${1#*=}" ;;
    --grace_seconds=*) GRACE_SECONDS="${1#*=}" ;;
    --name | --zone | --project | --type | --version | --wait_minutes | --extras | --worker | --grace_seconds)
      (($# > 1)) || fail "$1 has no value. Write $1=VALUE."
      set -- "$1=$2" "${@:3}"
      continue ;;
    --) shift; break ;;
    -*) fail "there is no flag $1. --help lists all flags; gcloud flags (create, delete) come after --." ;;
    *) break ;;
  esac
  shift
done

need NAME 'the name of the slice'
need ZONE 'its zone, such as us-west4-a'
[[ "$WAIT_MINUTES" =~ ^[0-9]+$ ]] || fail "WAIT_MINUTES is $WAIT_MINUTES. Use a whole number of minutes."
[[ "$GRACE_SECONDS" =~ ^[0-9]+$ ]] || fail "GRACE_SECONDS is $GRACE_SECONDS. Use a whole number of seconds."
[[ "$WORKER" =~ ^([0-9]+|all)$ ]] || fail "WORKER is $WORKER. Use a number from 0, or all."
if [ "$SUBCOMMAND" = create ]; then
  need TYPE 'the accelerator type, such as v5litepod-16'
  need VERSION "its software: v2-alpha-tpuv6e, v2-alpha-tpuv5 (v5p), v2-alpha-tpuv5-lite (v5e), tpu-ubuntu2204-base"
fi
case "$SUBCOMMAND" in
  run) (($#)) || fail 'run has no command. Append it, such as: run python3 -m prompt_tuning.train --gin_file=...' ;;
  install | logs | stop) (($# == 0)) || fail "$SUBCOMMAND does not take $1. --help lists its settings." ;;
esac
is_on "$DRY_RUN" || command -v gcloud >/dev/null ||
  fail 'gcloud is not on the PATH. Install the Google Cloud CLI, or use --dry_run to see the commands.'
PLACE=(--zone="$ZONE")
if [ -n "$PROJECT" ]; then PLACE+=(--project="$PROJECT"); fi

case "$SUBCOMMAND" in
  run) on_worker all start_here start_here "$@" ;;
  logs) on_worker "$WORKER" follow_here follow_here ;;
  stop) on_worker all 'as_root holders left stop_here' stop_here "$GRACE_SECONDS" ;;
  *) "$SUBCOMMAND" "$@" ;;
esac
