#!/bin/sh
# Says whether a server can answer. The health endpoints do not: they answer 200 even when a step of the model is dead.
#   probe.sh URL BODY
# 1. A step in Python is a process. When one has been killed, for example for its memory, the server keeps it as a zombie
#    and gives it requests as before, each of which fails after a second. SERVER_PID names the server; in the image it is 1.
# 2. Questions are sent to URL. TEXT in BODY becomes another text every time, because the response cache would answer for
#    a step that hangs. There are four, because every step has two processes. A server that is too busy (429, 503), or
#    slow after its first answers, is not dead, and passes. One that gives no answer in 15 seconds fails.
# The exit code is 0 where the server can answer, 1 where a new start may help, and 2 where it refuses the question (4xx):
# then the question is wrong, or the server has another model, and a new start changes nothing.
url=$1
body=$2

if cat /proc/[0-9]*/status 2>/dev/null | awk -v server="${SERVER_PID:-1}" '
  /^Name:/ { name = $2 }
  /^State:/ { state = $2 }
  /^PPid:/ && $2 == server && state == "Z" && name ~ /^triton_python/ { dead = 1 }
  END { exit !dead }'
then
  echo "a step of a model is dead" >&2
  exit 1
fi

end=$(($(date +%s) + 4))
for turn in 1 2 3 4; do
  question=$(printf '%s' "$body" | sed "s/TEXT/probe $turn $(date +%s%N)/g")
  status=$(curl --silent --max-time 15 --output /dev/null --write-out '%{http_code}' --data "$question" "$url")
  case $status in
    200) ;;
    429 | 503) exit 0 ;;
    4*) echo "$url refuses the question of the probe ($status): correct URL or BODY" >&2; exit 2 ;;
    *) echo "$url answered $status" >&2; exit 1 ;;
  esac
  [ "$(date +%s)" -lt "$end" ] || exit 0
done
