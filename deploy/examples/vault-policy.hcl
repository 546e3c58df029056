# All that the reloader needs of Vault or OpenBao, for a KV v2 mount at secret/: versions, no values.
path "secret/metadata/*" {
  capabilities = ["read"]
}

# OpenBao only: the versions of a whole folder in one answer.
path "secret/detailed-metadata/*" {
  capabilities = ["list"]
}
