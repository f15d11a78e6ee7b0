# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by scripts that disturb ranks: launches that end in any case.

# launch DEADLINE RANKS COMMAND...: COMMAND, which starts processes whose command lines match RANKS; its
# exit code. One that does not end is killed, and what still ran is listed in lines `hung: ...`. Then
#   124  ranks lived for DEADLINE seconds
#   125  the ranks have been dead for PATIENCE (20) seconds, but the launcher lives (docs/exit_codes.md,
#        A launcher that does not end)
launch() {
  local deadline=$1 ranks=$2 patience=${PATIENCE:-20} launcher begin=$SECONDS lived=$SECONDS now=$SECONDS
  shift 2
  "$@" < /dev/null &
  launcher=$!
  while sleep 0.1 && kill -0 "$launcher" 2> /dev/null; do
    ((SECONDS == now)) && continue
    now=$SECONDS
    pgrep -f -- "$ranks" > /dev/null && lived=$now
    ((now - lived < patience && now - begin < deadline)) && continue
    ps -o pid,ppid,stat,etimes,wchan:24,args -p "$launcher" --ppid "$launcher" | sed 's/^/hung: /' >&2
    kill -KILL "$launcher"
    wait "$launcher"
    # (also those that it had just begun; a killed process is seen for a moment)
    while pgrep -f -- "$ranks" | xargs -r kill -KILL 2> /dev/null; pgrep -f -- "$ranks" > /dev/null; do
      sleep 0.1
    done
    return $((now - lived < patience ? 124 : 125))
  done
  wait "$launcher"
}

# Text as a regular expression of pgrep.
# shellcheck disable=SC2001  # bash before 5.2 has no & in replacements
literally() { sed 's/[][\.*^$+?(){}|]/\\&/g' <<< "$1"; }
