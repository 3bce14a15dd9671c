#!/usr/bin/env bash
# Waits for an event of a type, prints it, and fails after a time: wait-for-event.sh TYPE SECONDS [STORE]
#
#     wait-for-event.sh deploy_finished 60 && echo done
set -euo pipefail
type=${1:?usage: $0 TYPE SECONDS [STORE]}
seconds=${2:?usage: $0 TYPE SECONDS [STORE]}
store=${3:-${DATABASE_URL:-events.db}}

# `-n 0` shows nothing of what is stored already.
exec 3< <(exec eventctl tail --db "$store" --type "$type" -n 0 -f -o json)
trap 'kill $!' EXIT
if ! IFS= read -r -t "$seconds" event <&3; then
    echo "no event of type $type within $seconds seconds" >&2
    exit 1
fi
printf '%s\n' "$event"
