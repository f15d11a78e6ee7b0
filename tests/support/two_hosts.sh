#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a program as two ranks on two hosts: network namespaces of this machine with names of their own,
# host-a and host-b, joined by one link. mpirun reaches host-b by a launch agent of its own, and the
# ranks talk over TCP. Everything ends with this script, as the namespaces are nobody else's.
#   tests/support/two_hosts.sh COMMAND...
# Exit code: that of mpirun; 69 where namespaces are not allowed, the reason on standard error. The last
# line on standard output says how many bytes host-a sent over the link.
set -euo pipefail

link() {  # the link host-a (192.0.2.1) - host-b (192.0.2.2)
  ip link set lo up
  ip netns add host-b
  ip link add to-b type veth peer name to-a netns host-b
  ip address add 192.0.2.1/24 dev to-b
  ip link set to-b up
  ip -n host-b link set lo up
  ip -n host-b address add 192.0.2.2/24 dev to-a
  ip -n host-b link set to-a up
}

make_hosts() {
  mount -t tmpfs tmpfs /run # where ip keeps names of namespaces
  hostname host-a
  link
}

if [[ "${1:-}" != --inside ]]; then
  user=()
  [[ $(id -u) -eq 0 ]] || user=(--user --map-root-user)
  isolated=(unshare "${user[@]}" --net --uts --mount --pid --fork --kill-child --mount-proc
    bash "${BASH_SOURCE[0]}" --inside)
  for program in ip unshare mpirun; do
    command -v "$program" >/dev/null || {
      echo "two_hosts: $program is missing" >&2
      exit 69
    }
  done
  if ! reason=$("${isolated[@]}" 2>&1); then
    echo "two_hosts: no namespaces here: ${reason##*$'\n'}" >&2
    exit 69
  fi
  exec "${isolated[@]}" "$@"
fi

shift
make_hosts
[[ $# -gt 0 ]] || exit 0

cat >/run/agent <<'EOF'
#!/bin/sh
shift # the host
exec ip netns exec host-b unshare --uts sh -c "hostname host-b; $*"
EOF
chmod +x /run/agent
printf '%s slots=1\n' 192.0.2.1 192.0.2.2 >/run/hosts

status=0
OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
  mpirun --hostfile /run/hosts -np 2 --bind-to none \
  --mca plm rsh --mca plm_rsh_agent /run/agent --mca oob_tcp_if_include 192.0.2.0/24 \
  --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include 192.0.2.0/24 \
  "$@" || status=$?
ip -statistics link show to-b | awk '/TX:/ { getline; print "sent over the link: " $1 " bytes" }'
exit "$status"
