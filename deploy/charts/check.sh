#!/usr/bin/env bash
# Checks the Helm chart: lints it with each values file of its ci/ folder, compares what it renders
# with the golden files there, and sees that its schema refuses what is in ci/refused/.
#
#   check.sh HELM            check with this helm binary
#   check.sh HELM --update   write the golden files anew, to be reviewed as a diff
set -euo pipefail

helm=${1:?usage: check.sh HELM [--update]}
update=${2:-}
cd "$(dirname "$0")/vault-secrets-reloader"
failed=0
rendered_files=0
refused_files=0

for values in ci/*.yaml; do
  rendered_files=$((rendered_files + 1))
  "$helm" lint --strict --quiet --values "$values" . || { echo "chart: lint fails with $values" >&2; failed=1; }
  golden="ci/golden/$(basename "$values")"
  rendered=$("$helm" template reloader . --namespace infra --values "$values")
  if [[ $update == --update ]]; then
    mkdir -p ci/golden
    printf '%s\n' "$rendered" >"$golden"
  elif ! diff -u "$golden" - <<<"$rendered"; then
    echo "chart: $values renders other objects than $golden; if that is meant, run $0 HELM --update" >&2
    failed=1
  fi
done

for values in ci/refused/*.yaml; do
  refused_files=$((refused_files + 1))
  if "$helm" template reloader . --values "$values" >/dev/null 2>&1; then
    echo "chart: $values should be refused by values.schema.json" >&2
    failed=1
  fi
done

[[ $failed == 0 ]] && echo "chart: $rendered_files values files render as expected, $refused_files are refused"
exit "$failed"
