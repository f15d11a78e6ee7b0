#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A private Slurm cluster of this one machine, for tests: its own keys, sockets, ports and state, all in
# one folder. Nothing is installed: where Slurm is missing, its packages are unpacked into
# build/slurm-packages, which needs no rights. Either sourced, for slurm_cluster_start and
# slurm_cluster_stop, or run:
#   tests/support/slurm_cluster.sh FOLDER [LINE_OF_SLURM_CONF...]
# which keeps the cluster until its standard input ends. It writes one of
#   FOLDER/ready    the environment of Slurm's commands: NAME=VALUE lines
#   FOLDER/missing  why this machine cannot have a cluster
#   FOLDER/failed   what went wrong

slurm_programs=(munged slurmctld slurmd slurmstepd sbatch srun scancel scontrol sinfo)
slurm_daemons=()

# slurm_program NAME: its path; Debian appends -wlm to some names.
slurm_program() {
  command -v "$1" || command -v "$1-wlm"
}

slurm_is_here() {
  local program
  for program in "${slurm_programs[@]}"; do
    slurm_program "$program" >/dev/null || return 1
  done
}

# slurm_unpack FOLDER: Slurm's packages and the libraries they miss here.
slurm_unpack() {
  local target=$1 wanted=(munge slurmctld slurmd slurm-client) packages partial
  [[ -d "$target" ]] && return
  command -v apt-get >/dev/null || return
  if ! apt-cache show "${wanted[@]}" >/dev/null 2>&1 && [[ $(id -u) -eq 0 ]]; then
    apt-get update >/dev/null 2>&1 || return
  fi
  mapfile -t packages < <(apt-get install --simulate --no-install-recommends "${wanted[@]}" \
    2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p')
  [[ ${#packages[@]} -gt 0 ]] || return
  mkdir -p "$(dirname "$target")" && partial=$(mktemp -d "$target.XXXXXX") || return
  # Another test may have been quicker.
  (
    cd "$partial" && apt-get download "${packages[@]}" >/dev/null 2>&1 || exit
    for package in *.deb; do dpkg -x "$package" . && rm "$package" || exit; done
    chmod 755 . && mv -T "$partial" "$target" 2>/dev/null
  ) || rm -rf "$partial"
  [[ -d "$target" ]]
}

# Finds Slurm's programs, in the system or unpacked. Sets slurm_plugins, empty: the system's.
slurm_find() {
  local root
  PATH=$PATH:/usr/sbin:/sbin
  slurm_plugins=
  slurm_is_here && return
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build/slurm-packages
  slurm_unpack "$root" || return
  slurm_plugins=$(echo "$root"/usr/lib/*/slurm-wlm)
  PATH=$root/usr/sbin:$root/usr/bin:$PATH
  LD_LIBRARY_PATH=${slurm_plugins%/*}:$slurm_plugins${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH
  slurm_is_here
}

slurm_free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

# slurm_write_configuration FOLDER [LINE...]
slurm_write_configuration() {
  local folder=$1 host user node
  shift
  host=$(uname -n)
  host=${host%%.*}
  user=$(id -un)
  node=$("$(slurm_program slurmd)" -C 2>/dev/null | sed -n 's/^NodeName=[^ ]* //p')
  mkdir -p "$folder"/{state,spool,tmp}
  dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 2>/dev/null
  chmod 400 "$folder/munge.key"
  echo "PMIxCliTmpDirBase=$folder/tmp" >"$folder/mpi.conf"
  # Any value but the default, which looks for systemd; processes are followed without cgroups.
  echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
  cat >"$folder/slurm.conf" <<EOF
ClusterName=rankwise
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$(slurm_free_port)
SlurmdPort=$(slurm_free_port)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
${slurm_plugins:+PluginDir=$slurm_plugins}
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MailProg=$(command -v true)
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 $node State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
EOF
  printf '%s\n' "$@" >>"$folder/slurm.conf"
}

# slurm_daemon FOLDER NAME ARGUMENT...: in the background, its process noted.
slurm_daemon() {
  local folder=$1 name=$2
  shift 2
  "$(slurm_program "$name")" "$@" </dev/null >"$folder/$name.out" 2>&1 &
  slurm_daemons+=($!)
}

# slurm_await WHAT COMMAND...: until it succeeds, while all daemons live, 20 s at most.
slurm_await() {
  local what=$1 attempt
  shift
  for ((attempt = 0; attempt < 200; ++attempt)); do
    "$@" >/dev/null 2>&1 && return
    kill -0 "${slurm_daemons[@]}" 2>/dev/null || break
    sleep 0.1
  done
  echo "no $what after $((attempt / 10)) s" >&2
  return 1
}

slurm_node_is_idle() {
  [[ $(sinfo -h -o %T) == idle ]]
}

# slurm_cluster_start FOLDER [LINE...]: 0 when a node is idle, SLURM_CONF and PATH set; 69 when this
# machine cannot have a cluster, 1 when one did not start; the reason on standard error. The last lines
# of slurm.conf are LINE..., such as another partition.
slurm_cluster_start() {
  local folder=$1
  slurm_find || {
    echo "Slurm is neither installed nor could its packages be fetched" >&2
    return 69
  }
  [[ $(env -u OMP_NUM_THREADS nproc) -ge 2 ]] || {
    echo "a job of two tasks needs two cores" >&2
    return 69
  }
  slurm_write_configuration "$@"
  export SLURM_CONF=$folder/slurm.conf
  # --force: the folder above may be closed to other users.
  slurm_daemon "$folder" munged --foreground --force --key-file="$folder/munge.key" \
    --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  slurm_await "munge socket" test -S "$folder/munge.socket" || return 1
  slurm_daemon "$folder" slurmctld -D
  slurm_daemon "$folder" slurmd -D -d "$(slurm_program slurmstepd)"
  slurm_await "idle node" slurm_node_is_idle
}

# Ends all jobs, then the daemons in reverse order.
slurm_cluster_stop() {
  local index
  if [[ ${#slurm_daemons[@]} -eq 3 ]]; then
    scancel --user="$(id -un)" --signal=KILL --full 2>/dev/null
    scancel --user="$(id -un)" 2>/dev/null
    slurm_await "idle node to stop" slurm_node_is_idle
  fi
  for ((index = ${#slurm_daemons[@]} - 1; index >= 0; --index)); do
    kill "${slurm_daemons[index]}" 2>/dev/null
    wait "${slurm_daemons[index]}" 2>/dev/null
  done
  slurm_daemons=()
}

slurm_cluster_main() {
  local folder=$1 status=0
  mkdir -p "$folder"
  trap slurm_cluster_stop EXIT
  trap 'exit 1' INT TERM HUP
  slurm_cluster_start "$@" 2>"$folder/start.log" || status=$?
  if [[ $status -eq 0 ]]; then
    printf '%s\n' "SLURM_CONF=$SLURM_CONF" "PATH=$PATH" "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}" \
      >"$folder/ready.part"
    mv "$folder/ready.part" "$folder/ready"
    while read -r _; do :; done
  elif [[ $status -eq 69 ]]; then
    mv "$folder/start.log" "$folder/missing"
  else
    tail -n 20 "$folder"/*.log "$folder"/*.out >"$folder/failed.part" 2>&1
    mv "$folder/failed.part" "$folder/failed"
  fi
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  [[ $# -gt 0 ]] || {
    echo "slurm_cluster.sh: FOLDER [LINE_OF_SLURM_CONF...]" >&2
    exit 2
  }
  slurm_cluster_main "$@"
fi
