#!/usr/bin/env bash
# Forwards events to another endpoint as they are stored: forward.sh URL [TYPE] [STORE]
#
#     forward.sh https://archive.example/event 'order_*'
#
# An event that is on its way when it is stopped may be forwarded again or not at all; what could not be delivered
# is in forward.dead-letters.
set -euo pipefail
url=${1:?usage: $0 URL [TYPE] [STORE]}
type=${2:-*}
store=${3:-${DATABASE_URL:-events.db}}

eventctl tail --db "$store" --type "$type" -n 0 -f -o ndjson |
    eventctl propagate --file - --endpoint "$url" --period 1ms --max-in-flight 1 \
        --dead-letter forward.dead-letters --quiet
