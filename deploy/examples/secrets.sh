#!/bin/sh
# Puts the three secrets of the try-out; each run makes a new version of those named, or of all:
#   secrets.sh [mysql] [accounts/aws] [dockerrepo]
# Needs the vault or bao client with VAULT_ADDR and VAULT_TOKEN (BAO_ADDR and BAO_TOKEN) set.
set -eu
client=$(command -v bao || command -v vault) || {
  echo "secrets.sh: neither bao nor vault is on the PATH; install one of the two clients" >&2
  exit 1
}
[ $# -gt 0 ] || set -- mysql accounts/aws dockerrepo
for secret in "$@"; do
  case $secret in
    mysql) key=MYSQL_PASSWORD ;;
    accounts/aws) key=AWS_SECRET_ACCESS_KEY ;;
    dockerrepo) key=DOCKER_REPO_PASSWORD ;;
    *) echo "secrets.sh: no secret $secret in the try-out" >&2; exit 1 ;;
  esac
  # The value comes by standard input: arguments can be seen by other users of the machine.
  head -c 12 /dev/urandom | base64 | tr -d '\n' | "$client" kv put "secret/$secret" "$key=-"
done
