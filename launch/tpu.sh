#!/usr/bin/env bash
# Runs rqjax on a Cloud TPU VM, a pod slice or several slices: creates it, installs there, runs the same command on all
# workers, goes on after preemptions, deletes it.
#   bash launch/tpu.sh --name NAME --zone ZONE --type v5litepod-16 --workdir gs://BUCKET/RUN -- train --config FILE
# The words after -- are those of rqjax; --workdir is passed on to them. What runs is the commit that is checked out.
#   --project P     the project (else the one gcloud is set to)
#   --version V     the runtime image (else the one for the type)
#   --spot          a machine that costs less and may be taken away at any time
#   --queue         wait in the queue for it, instead of failing when there is none
#   --slices N      N slices as one run; always by the queue
#   --keep          use the machine of that name if there is one, and leave it running at the end
#   --restarts N    give up after as many (50)
#   --poll N        seconds between looks at the machine's state (20)
#   --patience N    seconds in which the loss of a machine shows in its state (120)
#   --dry_run       print the commands, and run none
# Needs gcloud with an account; for several workers also a running ssh-agent: ssh-add ~/.ssh/google_compute_engine
set -euo pipefail
cd "$(dirname "$0")/.."

restart=75 # RESTART of rqjax/run/hosts.py

say() { printf 'launch/tpu.sh: %s\n' "$1" >&2; }
fail() { say "$1"; exit "${2:-2}"; }

name='' zone='' type='' version='' project='' workdir='' slices=1 restarts=50 poll=20 patience=120
spot='' queue='' keep='' dry_run='' # empty, or the flag

# Sets the variables above; the words of rqjax are left in `words`, quoted for a shell.
read_flags() {
  while [ $# -gt 0 ]; do
    case $1 in
      --spot | --queue | --keep | --dry_run) printf -v "${1#--}" %s "$1" ;;
      --name | --zone | --type | --version | --project | --workdir | --slices | --restarts | --poll | --patience)
        [ $# -gt 1 ] || fail "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
      --?*=*) set -- '' "${1%%=*}" "${1#*=}" "${@:2}" ;;
      --) break ;;
      -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
      *) fail "unknown flag $1: --help lists them, and the words of rqjax come after --" ;;
    esac
    shift
  done
  shift || true
  [ "${1:-}" != rqjax ] || shift
  [ $# -gt 0 ] || fail "nothing to run: give the words of rqjax after --, as in -- train --config FILE"
  case " $* " in *" --workdir"[\ =]*) fail "--workdir comes before --: it is passed on" ;; esac
  words=$(quote "$@" ${workdir:+"--workdir=$workdir"})
}

check_flags() {
  local flag
  for flag in name zone type; do [ -n "${!flag}" ] || fail "--$flag is missing: --help shows an example"; done
  for flag in slices restarts poll patience; do
    case ${!flag} in '' | *[!0-9]*) fail "--$flag is '${!flag}': expected a number" ;; esac
  done
  [ "$slices" -gt 0 ] && [ "$poll" -gt 0 ] || fail "--slices is $slices and --poll is $poll: expected at least 1"
  case $workdir in gs://?*) ;; *) say "--workdir is '$workdir', not gs://...: it will be lost with the machine" ;; esac
  case $version,$type in
    ,v6e-*) version=v2-alpha-tpuv6e ;;
    ,v5p-*) version=v2-alpha-tpuv5 ;;
    ,v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    ,v[234]-*) version=tpu-ubuntu2204-base ;;
    ,*) fail "no runtime image is known for --type $type: give --version (gcloud compute tpus tpu-vm versions list)" ;;
  esac
  if [ "$slices" -gt 1 ]; then queue=--queue; fi
  kind=${queue:+queued-resources}
  kind=${kind:-tpu-vm}
}

# The words as a shell reads them back, so that what --dry_run prints can be pasted.
quote() {
  local word space=''
  for word; do
    case $word in
      '' | *[!a-zA-Z0-9_./:=@%+,-]*) word="'$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
    esac
    printf '%s%s' "$space" "$word"
    space=' '
  done
}

run() { if [ -n "$dry_run" ]; then quote "$@" && echo; else "$@"; fi; }

# Every call of the cloud is made here.
cloud() {
  run gcloud compute tpus "$kind" "$@" "--zone=$zone" ${project:+"--project=$project"} --quiet
}

look() {
  cloud describe "$name" "--format=value(state${queue:+.state})"
}

# Prints one of: ready waiting lost failed absent unknown.
state() {
  local found
  if ! found=$(look 2>"$errors"); then
    if grep -qi 'not[_ ]found' "$errors"; then echo absent; else cat "$errors" >&2 && echo unknown; fi
    return
  fi
  case $found in
    READY | ACTIVE) echo ready ;;
    CREATING | STARTING | RESTARTING | REPAIRING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES) echo waiting ;;
    FAILED) echo failed ;;
    *) echo lost ;;
  esac
}

create() {
  set -- "$name" "--accelerator-type=$type"
  if [ "$slices" -gt 1 ]; then
    set -- "$@" "--runtime-version=$version" "--node-count=$slices" "--node-prefix=$name"
  elif [ -n "$queue" ]; then
    set -- "$@" "--runtime-version=$version" "--node-id=$name"
  else
    set -- "$@" "--version=$version"
  fi
  cloud create "$@" ${spot:+--spot}
}

delete() { cloud delete "$name" ${queue:+--force}; }

# gcloud's queue reaches 64 workers at a time if not told otherwise: the rest would never join.
everywhere() { cloud "$@" --worker=all ${queue:+--node=all --batch-size=all}; }

# A connection whose machine is gone breaks within a minute.
on_workers() {
  everywhere ssh "$name" --ssh-flag='-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4' \
    "--command=$1"
}

install() {
  everywhere scp "build/$name.tar.gz" "$name:rqjax.tar.gz" \
    && on_workers 'mkdir -p rqjax && rm -rf rqjax/rqjax rqjax/configs && tar -xzf rqjax.tar.gz -C rqjax' \
    && on_workers 'bash rqjax/launch/worker.sh install'
}

sweep() { on_workers 'bash rqjax/launch/worker.sh sweep'; }
start() { on_workers "bash rqjax/launch/worker.sh start $words"; }

# The first look: a machine that is there already is somebody's.
claim() {
  case $(state) in
    absent) ;;
    unknown) fail "gcloud cannot say whether there is a $name: see above" ;;
    *) [ -n "$keep" ] || fail "there is a $name already: choose another --name, or --keep to use and leave it" ;;
  esac
}

# Comes back with a machine that is ready and has rqjax on it. With `again`, it is waited for as long as it takes.
provide() {
  while true; do
    case $(state) in
      ready)
        if install; then return; fi
        if survived; then fail "the installation on $name failed: see above"; fi
        ;;
      failed | lost)
        if [ "$1" = first ] && $made; then
          cloud describe "$name" >&2 || true
          fail "$name could not be had: its description is above"
        fi
        say "deleting what is left of $name"
        delete || true
        ;;
      absent)
        say "creating $name: $slices x $type"
        made=true
        create || [ "$1" = again ] || fail "$name could not be created: see above, and try --queue"
        ;;
      *) ;;
    esac
    sleep "$poll"
  done
}

# Whether the machine is still there once its loss has had time to show.
survived() {
  local waited
  for ((waited = 0; waited <= patience; waited += poll)); do
    case $(state) in ready | unknown) sleep "$poll" ;; *) return 1 ;; esac
  done
}

# Runs until it is done, on as many machines as it takes.
supervise() {
  local status count=0
  provide first
  while true; do
    sweep || true
    status=0
    start & # so that a signal to this script does not wait for its end
    wait $! || status=$?
    if [ "$status" = 0 ]; then return; fi
    count=$((count + 1))
    [ "$count" -le "$restarts" ] || fail "restarted $restarts times: giving up" "$status"
    if ! survived; then
      say "$name is lost: restart $count on another"
      provide again
    elif [ "$status" = "$restart" ]; then
      say "restart $count"
    else
      fail "the run failed with status $status on a machine that is well: see above" "$status"
    fi
  done
}

end() {
  local status=$?
  trap - EXIT INT TERM
  if [ -n "$keep" ]; then
    sweep || true
    say "$name is kept, and costs until you delete it"
  elif $made; then
    say "deleting $name"
    delete || say "$name may still be there, and cost: look in the console"
  fi
  rm -f "$errors"
  exit "$status"
}

read_flags "$@"
check_flags
git rev-parse -q --verify HEAD >/dev/null || fail "no git checkout: what is sent to the workers is its commit"
git diff --quiet HEAD || say "changes that are not committed stay here"
run mkdir -p build
run git archive --format=tar.gz "--output=build/$name.tar.gz" HEAD
if [ -n "$dry_run" ]; then
  create
  look
  install
  sweep
  start
  if [ -z "$keep" ]; then delete; fi
  exit
fi
command -v gcloud >/dev/null || fail "no gcloud found: https://cloud.google.com/sdk/docs/install"
errors=$(mktemp) made=false
claim
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
supervise
say "done"
