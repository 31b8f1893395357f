#!/bin/sh
# jobs.sh [GB_PER_JOB]: prints how many jobs to run at once: one a core, and no more than the memory
# holds. The largest files (the HTTP server's) take 2 GB each in the compiler.
gb=${1:-2}
cores=$(nproc 2> /dev/null || echo 1)
free_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo 2> /dev/null)
: "${free_kb:=4000000}"
limit=$(cat /sys/fs/cgroup/memory.max 2> /dev/null || echo max)
case "$limit" in
  max | '') ;;
  *) [ $((limit / 1024)) -lt "$free_kb" ] && free_kb=$((limit / 1024)) ;;
esac
jobs=$((free_kb / (gb * 1000000)))
[ "$jobs" -gt "$cores" ] && jobs=$cores
[ "$jobs" -lt 1 ] && jobs=1
echo "$jobs"
