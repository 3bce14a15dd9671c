#!/usr/bin/env bash
# Counts events by type, the most frequent first, as COUNT<TAB>TYPE: count-by-type.sh [SINCE] [STORE]
#
#     count-by-type.sh 1h
set -euo pipefail
since=${1:-1000y}
store=${2:-${DATABASE_URL:-events.db}}

# The columns behind the type hold no commas.
eventctl tail --db "$store" --stats --since "$since" -o csv | tr -d '\r' | tail -n +2 |
    sed -E 's/^(.*),([0-9]+),[^,]*,[^,]*$/\2\t\1/'
