#!/usr/bin/env bash
# Checks the Helm chart: lints it with each values file of its ci/ folder, compares what it renders
# with the golden files there, and sees that its schema refuses what is in ci/refused/. Compares the copies
# in its files/ folder with what they are copies of, and deploy/manifests with what the chart renders.
#
#   check.sh HELM            check with this helm binary
#   check.sh HELM --update   write the golden files, copies and manifests anew, to be reviewed as a diff
#
# With kubectl beside the helm binary or on the PATH, the manifests are also built by kustomize.
set -euo pipefail

helm=${1:?usage: check.sh HELM [--update]}
update=${2:-}
[[ $helm != */* ]] || helm=$(realpath "$helm")
cd "$(dirname "$0")/vault-secrets-reloader"
failed=0
rendered_files=0
refused_files=0

# same FILE WHAT: the file holds what comes on stdin. With --update, it is written.
same() {
  local content
  content=$(cat)
  if [[ $update == --update ]]; then
    mkdir -p "$(dirname "$1")"
    printf '%s\n' "$content" >"$1"
  elif ! diff -u "$1" - <<<"$content"; then
    echo "chart: $1 is not $2; if that is meant, run deploy/charts/check.sh HELM --update" >&2
    failed=1
  fi
}

# A chart is installed without the repository around it. values.yaml is copied because templates cannot read it.
same files/alerts.yaml "a copy of deploy/prometheus/alerts.yaml" <../../prometheus/alerts.yaml
same files/dashboard.json "a copy of deploy/grafana/dashboard.json" <../../grafana/dashboard.json
same files/values.yaml "a copy of values.yaml" <values.yaml

for values in ci/*.yaml; do
  rendered_files=$((rendered_files + 1))
  "$helm" lint --strict --quiet --values "$values" . || { echo "chart: lint fails with $values" >&2; failed=1; }
  # The objects of `helm test` are in the golden files that are about them.
  tests=--skip-tests
  [[ $values != ci/helm-test* ]] || tests=
  # The dashboard itself is compared above.
  "$helm" template reloader . --namespace infra ${tests:+"$tests"} --values "$values" \
    | sed '/^  vault-secrets-reloader.json: |$/,/^---$/{//!d}' \
    | same "ci/golden/$(basename "$values")" "what $values renders"
done

for values in ci/refused/*.yaml; do
  refused_files=$((refused_files + 1))
  if "$helm" template reloader . --values "$values" >/dev/null 2>&1; then
    echo "chart: $values should be refused by values.schema.json" >&2
    failed=1
  fi
done

# Keys that the chart does not know are pointed out, and no key of the replaced chart is.
notes() {
  "$helm" install reloader . --dry-run=client --kubeconfig /dev/null "$@"
}
unknown=$(sed 's/$/=1/' ci/unknown-keys.txt | paste -s -d , -)
notes --set "$unknown" | sed -n '/^WARNING/,$ s/^  - //p' | same ci/unknown-keys.txt "what NOTES.txt points out"
if notes --values ci/old-file.yaml | grep --quiet '^WARNING'; then
  echo "chart: NOTES.txt points out keys of ci/old-file.yaml" >&2
  failed=1
fi

# Plain manifests, without what only Helm needs.
manifests=../../manifests
# manifest FOLDER FLAG...: what the chart renders with these flags.
manifest() {
  local folder=$1
  shift
  {
    echo "# Rendered from deploy/charts/vault-secrets-reloader by deploy/charts/check.sh. Do not edit."
    "$helm" template vault-secrets-reloader . --namespace vault-system --skip-tests "$@" \
      | sed -e '/^ *app.kubernetes.io\/managed-by: Helm$/d' -e '/^ *helm.sh\/chart: /d' -e '/^# Source: /d'
  } | same "$manifests/$folder/install.yaml" "what the chart renders"
}
manifest default
manifest two-replicas --set replicaCount=2 --set podDisruptionBudget.enabled=true
kubectl=$(dirname "$helm")/kubectl
[[ -x $kubectl ]] || kubectl=$(command -v kubectl || true)
if [[ -n $kubectl ]]; then
  for folder in default two-replicas example; do
    "$kubectl" kustomize "$manifests/$folder" >/dev/null || { echo "chart: kustomize fails in deploy/manifests/$folder" >&2; failed=1; }
  done
else
  echo "skipped: there is no kubectl; deploy/manifests is not built by kustomize"
fi

[[ $failed == 0 ]] && echo "chart: $rendered_files values files render as expected, $refused_files are refused; copies and manifests are current"
exit "$failed"
