#!/usr/bin/env bash
# Loads a file of events, each once and in order, and keeps what was refused: load-file.sh FILE [URL]
#
#     load-file.sh events.ndjson http://127.0.0.1:8000/event
set -euo pipefail
file=${1:?usage: $0 FILE [URL]}
url=${2:-${HTTP_POST_ENDPOINT:-http://127.0.0.1:8000/event}}
refused=$file.refused

status=0
eventctl propagate --file - --endpoint "$url" --period 1ms --max-in-flight 1 --dead-letter "$refused" --quiet \
    <"$file" || status=$?
case $status in
0) echo "all events of $file are stored" >&2 ;;
3) echo "some events of $file were not stored: see $refused" >&2 ;;
esac
exit "$status"
