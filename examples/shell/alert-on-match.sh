#!/usr/bin/env bash
# Reports a health alert for every event that matches, as JSON: alert-on-match.sh PATTERN [URL] [STORE]
#
#     alert-on-match.sh 'disk (full|failing)' http://127.0.0.1:8000
#
# `consume --alert-on TYPE` needs no script where the type says it all.
set -euo pipefail
pattern=${1:?usage: $0 PATTERN [URL] [STORE]}
url=${2:-http://127.0.0.1:8000}
store=${3:-${DATABASE_URL:-events.db}}
quoted=$(printf '%s' "$pattern" | sed 's/["\\]/\\&/g')

# Alerts are events as well: they must not report themselves.
eventctl tail --db "$store" -n 0 -f -o json | grep --line-buffered -v '"event_type":"health_alert"' |
    grep --line-buffered -E "$pattern" | while IFS= read -r event; do
        id=$(printf '%s' "$event" | sed -n 's/^{"id":\([0-9]*\).*/\1/p')
        curl -fsS "$url/api/v1/health-alert" -H 'Content-Type: application/json' \
            -H "Idempotency-Key: match-$id" -d "{\"issues\": [\"event $id matches $quoted\"]}" >/dev/null ||
            echo "event $id: not reported" >&2
    done
