# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/run.sh and tests/gpu.sh, with logs set to a folder: phases, counted test cases,
# shown failures and the last line.
# shellcheck disable=SC2154,SC2317  # logs is the caller's; functions are called through `phase`

passed=0
failed=0
skipped=0
mkdir -p "$logs"
: >"$logs/skipped.txt"

finish() {
  if [[ -s "$logs/skipped.txt" ]]; then
    echo "-- skipped:"
    sort -u "$logs/skipped.txt"
  fi
  echo "-- whole run: ${SECONDS} s, logs in $logs"
  echo "$passed passed, $failed failed, $skipped skipped"
  [[ $failed -eq 0 && $passed -gt 0 ]]
  exit
}

# phase TITLE COMMAND...: runs it, says how long it took; a failed phase counts as one failed test.
phase() {
  local title=$1 begin=$SECONDS
  shift
  echo "-- $title"
  if "$@"; then
    echo "-- $title: $((SECONDS - begin)) s"
  else
    echo "-- $title: FAILED after $((SECONDS - begin)) s"
    failed=$((failed + 1))
    return 1
  fi
}

quietly() {  # quietly LOG COMMAND...: shows the log only when the command fails
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 60 "$log"
    return 1
  }
}

# Counts the single cases out of ctest's verbose output. A case that ran on several ranks counts
# once, with its worst result; a program that ended without naming a failed case (crash, time-out, no
# case at all) counts as one failed.
count_cases() {
  awk -v skipped_list="$logs/skipped.txt" '
    # "12: /path/some_test.cc:34: Skipped", then the reason
    /^[0-9]+: .*: Skipped$/ {
      number = $0; sub(/:.*/, "", number)
      if ((getline line) > 0) { sub(/^[0-9]+: /, "", line); reason[number] = line }
      next
    }
    match($0, /^[0-9]+: \[ +(OK|FAILED|SKIPPED) +\] [A-Za-z0-9_\/]+\.[A-Za-z0-9_\/]+/) {
      line = substr($0, RSTART, RLENGTH)
      number = line; sub(/:.*/, "", number)
      name = line; sub(/^.*\] /, "", name)
      value = line ~ /FAILED/ ? 3 : line ~ /SKIPPED/ ? 2 : 1
      key = number SUBSEP name
      if (value > worst[key]) worst[key] = value
      if (value == 2 && reason[number] != "") why[key] = reason[number]
      reason[number] = ""
    }
    # "3/90 Test  #3: runtime.rng_test ......   Passed    0.02 sec"
    match($0, /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: [^ ]+/) {
      split(substr($0, RSTART, RLENGTH), parts, "#"); split(parts[2], half, ": ")
      program[half[1]] = half[2]
      bad[half[1]] = $0 !~ / Passed /
    }
    END {
      for (key in worst) {
        split(key, half, SUBSEP); cases[half[1]]++
        if (worst[key] == 1) passed++
        if (worst[key] == 2) {
          skipped++
          because = why[key] == "" ? "" : ": " why[key]
          print "   " program[half[1]] " " half[2] because >> skipped_list
        }
        if (worst[key] == 3) { failed++; named[half[1]] = 1 }
      }
      for (number in program) {
        if ((bad[number] && !named[number]) || (!bad[number] && !cases[number])) failed++
      }
      print passed + 0, failed + 0, skipped + 0
    }' "$1"
}

run_ctest() {  # run_ctest LOG ARGUMENTS...: ctest, its cases counted
  local log=$1
  shift
  local status=0
  ctest -V "$@" >"$log" 2>&1 || status=$?
  local p f s
  read -r p f s < <(count_cases "$log")
  passed=$((passed + p))
  skipped=$((skipped + s))
  # The verdict of ctest stands even where counting saw nothing wrong.
  [[ $status -ne 0 && $f -eq 0 ]] && f=1
  failed=$((failed + f))
  echo "   $p passed, $f failed, $s skipped"
  [[ $f -eq 0 ]] || show_failures "$log"
}

show_failures() {  # what each failed program said, without its cases that passed
  local number
  sed -n '/The following tests FAILED/,/^Errors while/p' "$1"
  sed -n '/The following tests FAILED/,$s/^[[:blank:]]*\([0-9]*\) - .*/\1/p' "$1" |
    while read -r number; do
      grep "^$number: " "$1" | grep -vE '\[ +(OK|RUN) +\]|\[-+\]|^[0-9]+: *$' | tail -n 40
    done
}
