#!/usr/bin/env bash
# Deploys eventctl into a namespace of the cluster that kubectl talks to, and waits until it is available.
#
#     ./deploy.sh [NAMESPACE]                         default: default
#     SERVICE_TYPE=LoadBalancer ./deploy.sh events    reachable from outside; also NodePort [ClusterIP]
#     TIMEOUT=10m ./deploy.sh                         for slow clusters [5m]
#
# What ran before is removed first, but not the database. To change what runs without an interruption:
# kubectl apply --namespace NAMESPACE --kustomize examples/kubernetes
set -euo pipefail

namespace=${1:-default}
timeout=${TIMEOUT:-5m}
service_type=${SERVICE_TYPE:-ClusterIP}
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

in_namespace() { kubectl --namespace "$namespace" "$@"; }

check() {
    case $service_type in
    ClusterIP | NodePort | LoadBalancer) ;;
    *) fail "SERVICE_TYPE is \`$service_type\`" "give ClusterIP, NodePort or LoadBalancer" ;;
    esac
    command -v kubectl >/dev/null || fail "there is no kubectl" "install it: https://kubernetes.io/docs/tasks/tools/"
    local problem name
    # In this order: what can be mended here, then the cluster.
    for name in owner-password db-password password; do
        grep -qE "^$name=.{16,}" "$folder/secret.env" 2>/dev/null ||
            fail "\`$folder/secret.env\` has no $name of 16 characters or more" \
                "(umask 077; for name in owner-password db-password password; do echo \"\$name=\$(openssl rand -hex 24)\"; done > '$folder/secret.env')"
    done
    problem=$(kubectl version --request-timeout=10s 2>&1 >/dev/null) ||
        fail "cannot reach the cluster: ${problem##*$'\n'}" "see kubectl config current-context and kubectl cluster-info"
    problem=$(kubectl get namespace "$namespace" 2>&1 >/dev/null) || case $problem in
    *NotFound*) fail "there is no namespace \`$namespace\`" "run kubectl create namespace $namespace" ;;
    *) fail "cannot see the namespace \`$namespace\`: ${problem##*$'\n'}" "see kubectl auth can-i --list" ;;
    esac
}

# Whether the cluster would take it, before what runs is removed.
check_manifests() {
    local problem
    problem=$(in_namespace apply --kustomize "$folder" --dry-run=server 2>&1 >/dev/null) ||
        fail "the cluster refuses this: ${problem##*$'\n'}" \
            "see kubectl apply --namespace $namespace --kustomize '$folder' --dry-run=server"
}

# What went wrong, from those who know.
explain() {
    {
        echo "--- pods"
        in_namespace get pods --selector app.kubernetes.io/part-of=eventctl
        echo "--- events"
        in_namespace get events --sort-by=.lastTimestamp | tail -n 20
        echo "--- logs of $1"
        in_namespace logs "$1" --all-containers --prefix --tail=20
    } >&2 || true
}

echo "checking namespace $namespace"
check

echo "removing what ran before"
# A job cannot be changed, only made anew.
in_namespace delete job eventctl-init-db --ignore-not-found --wait --timeout "$timeout"
check_manifests
in_namespace delete deployment eventctl --ignore-not-found --wait --timeout "$timeout"

echo "applying $folder"
in_namespace apply --kustomize "$folder"

echo "waiting for the database to be prepared"
in_namespace wait --for=condition=complete job/eventctl-init-db --timeout "$timeout" || {
    explain job/eventctl-init-db
    fail "the database was not prepared within $timeout" "see the logs above; TIMEOUT=10m gives it more time"
}

echo "waiting for eventctl to be available"
in_namespace wait --for=condition=available deployment/eventctl --timeout "$timeout" || {
    explain deployment/eventctl
    fail "eventctl did not become available within $timeout" "see the logs above; TIMEOUT=10m gives it more time"
}

echo "exposing it as a service of type $service_type"
in_namespace patch service eventctl --patch "{\"spec\": {\"type\": \"$service_type\"}}"
in_namespace get service eventctl
cat <<NEXT
eventctl is available. From this machine:
    kubectl --namespace $namespace port-forward service/eventctl 8000 &
    (umask 077; sed -n 's/^password=//p' '$folder/secret.env' > password)
    eventctl propagate --count 5 --period 1s --username operator --password-file password
NEXT
