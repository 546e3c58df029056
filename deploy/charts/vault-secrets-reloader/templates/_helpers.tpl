{{/*
Names and selector labels are those of the chart that this one replaces: a Deployment's selector
and a binding's roleRef cannot be changed, so an upgrade in place needs the same ones.
*/}}
{{- define "vault-secrets-reloader.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "vault-secrets-reloader.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "vault-secrets-reloader.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vault-secrets-reloader.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "vault-secrets-reloader.labels" -}}
{{ include "vault-secrets-reloader.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with include "vault-secrets-reloader.commonLabels" (dict "context" . "labels" dict) }}
{{ . }}
{{- end }}
{{- end }}

{{/*
The labels that all objects share, and more labels, without those that the chart itself sets. Values are
text. Takes the context and the labels.
*/}}
{{- define "vault-secrets-reloader.commonLabels" -}}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{- $lines := list }}
{{- range $name, $value := merge dict (.labels | default dict) (.context.Values.commonLabels | default dict) }}
{{- if not (has $name $own) }}
{{- $lines = append $lines (printf "%s: %s" $name (include "vault-secrets-reloader.text" $value | quote)) }}
{{- end }}
{{- end }}
{{- join "\n" $lines }}
{{- end }}

{{- define "vault-secrets-reloader.serviceAccountName" -}}
{{- if include "vault-secrets-reloader.isTrue" .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "vault-secrets-reloader.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/*
"true" for true and for "true", else nothing: values set as strings mean what they say.
*/}}
{{- define "vault-secrets-reloader.isTrue" -}}
{{- if eq (toString .) "true" }}true{{ end }}
{{- end }}

{{/*
"true" unless it is false or "false": values of an older release, which `--reuse-values` keeps, lack the key.
*/}}
{{- define "vault-secrets-reloader.isNotFalse" -}}
{{- if ne (toString .) "false" }}true{{ end }}
{{- end }}

{{/*
"true" unless leader election is switched off; a values file of an older chart has no such key.
*/}}
{{- define "vault-secrets-reloader.isElected" -}}
{{- if ne (toString (.Values.leaderElection | default dict).enabled) "false" }}true{{ end }}
{{- end }}

{{/*
"true" unless it is switched off, as above.
*/}}
{{- define "vault-secrets-reloader.readsConfigMaps" -}}
{{- if ne (toString .Values.readConfigMaps) "false" }}true{{ end }}
{{- end }}

{{- define "vault-secrets-reloader.recordsEvents" -}}
{{- if ne (toString .Values.recordEvents) "false" }}true{{ end }}
{{- end }}

{{/*
When reloads wait for the webhook that injects secrets. YAML reads off as false.
*/}}
{{- define "vault-secrets-reloader.injectorCheck" -}}
{{- if kindIs "invalid" .Values.injectorCheck }}auto
{{- else if eq (toString .Values.injectorCheck) "false" }}off
{{- else }}{{ .Values.injectorCheck }}
{{- end }}
{{- end }}

{{/*
The flags that say which namespaces are watched. What needs rights in the whole cluster is refused with
watchNamespaces, as by the controller.
*/}}
{{- define "vault-secrets-reloader.scopeArgs" -}}
{{- if .Values.watchNamespaces }}
{{- if .Values.namespaceSelector }}
{{- fail "namespaceSelector does not go with watchNamespaces: the labels of namespaces can only be read with rights in the whole cluster. Empty one of the two" }}
{{- end }}
{{- if include "vault-secrets-reloader.statusAsksKubernetes" . }}
{{- fail "status.kubernetesAuth does not go with watchNamespaces: TokenReviews and SubjectAccessReviews need rights in the whole cluster. Use status.tokenFile instead" }}
{{- end }}
{{- if eq (include "vault-secrets-reloader.injectorCheck" .) "required" }}
{{- fail "injectorCheck: required does not go with watchNamespaces: MutatingWebhookConfigurations can only be watched with rights in the whole cluster. Set injectorCheck to auto or off" }}
{{- end }}
- {{ printf "--watch-namespaces=%s" (join "," .Values.watchNamespaces) | quote }}
{{- end }}
{{- with .Values.namespaceSelector }}
- {{ printf "--namespace-selector=%s" . | quote }}
{{- end }}
{{- end }}

{{/*
What the controller may do with workloads and what they name, as rules: in all namespaces, or in one. Takes
the context and the namespace, which is empty for all.
*/}}
{{- define "vault-secrets-reloader.workloadRules" -}}
# The workloads: watched, and patched to roll them out.
- apiGroups: ["apps"]
  resources: ["deployments", "daemonsets", "statefulsets"]
  verbs: ["get", "list", "watch", "patch"]
# What their controllers made of the current pod template, and when.
- apiGroups: ["apps"]
  resources: ["replicasets", "controllerrevisions"]
  verbs: ["list"]
{{- if .namespace }}
# The annotations that hold the reloads of the namespace.
- apiGroups: [""]
  resources: ["namespaces"]
  resourceNames: [{{ .namespace | quote }}]
  verbs: ["get"]
{{- else }}
# The annotations that hold the reloads of a namespace; only metadata are watched.
- apiGroups: [""]
  resources: ["namespaces"]
  verbs: ["list", "watch"]
{{- end }}
{{- if include "vault-secrets-reloader.readsConfigMaps" .context }}
# What variables come from: the metadata of all is watched, and those that a workload names are read.
- apiGroups: [""]
  resources: ["configmaps"]
  verbs: ["get", "list", "watch"]
{{- end }}
{{- if include "vault-secrets-reloader.isTrue" .context.Values.readSecrets }}
- apiGroups: [""]
  resources: ["secrets"]
  verbs: ["get", "list", "watch"]
{{- end }}
{{- if include "vault-secrets-reloader.recordsEvents" .context }}
# What the owners of workloads should know of their references.
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create", "patch"]
{{- end }}
{{- end }}

{{/*
The flags with values of their own that are not the program's defaults: extraArgs may hold the others.
*/}}
{{- define "vault-secrets-reloader.pollArgs" -}}
{{- $requests := .Values.vaultRequests | default dict }}
{{- $flags := list
  (list "settle-time" .Values.settleTime "3s")
  (list "ignore-versions-before" .Values.ignoreVersionsBefore "")
  (list "found-reload-burst" .Values.foundReloadBurst "20")
  (list "found-reload-rate" .Values.foundReloadRate "120")
  (list "vault-concurrency" $requests.concurrency "8")
  (list "vault-rate" $requests.rate "")
  (list "vault-token-renew-threshold" .Values.vaultTokenRenewThreshold "")
  (list "max-secrets-per-namespace" .Values.maxSecretsPerNamespace "10000") }}
{{- if include "vault-secrets-reloader.isTrue" .Values.dryRun }}
- "--dry-run"
{{- end }}
{{- include "vault-secrets-reloader.flags" $flags }}
{{- if include "vault-secrets-reloader.isTrue" $requests.spread }}
- "--vault-spread"
{{- end }}
{{- end }}

{{- define "vault-secrets-reloader.electionArgs" -}}
{{- $election := .Values.leaderElection | default dict }}
{{- include "vault-secrets-reloader.flags" (list
  (list "leader-elect-lease-duration" $election.leaseDuration "15s")
  (list "leader-elect-renew-deadline" $election.renewDeadline "10s")
  (list "leader-elect-retry-period" $election.retryPeriod "2s")) }}
{{- end }}

{{/*
Flags, each as a list of its name, value and default.
*/}}
{{- define "vault-secrets-reloader.flags" -}}
{{- range $flag := . }}
{{- $text := include "vault-secrets-reloader.text" (index $flag 1) }}
{{- if and $text (ne $text (index $flag 2)) }}
- {{ printf "--%s=%s" (index $flag 0) $text | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The flags of the rules for rollouts, as above.
*/}}
{{- define "vault-secrets-reloader.rolloutArgs" -}}
{{- $waves := .Values.waves | default dict }}
{{- if eq (toString $waves.enabled) "false" }}
- "--waves=false"
{{- end }}
{{- include "vault-secrets-reloader.flags" (list
  (list "waves-from" $waves.from "5")
  (list "wave-first" $waves.first "1")
  (list "wave-step" $waves.step "25%")
  (list "max-rollouts" .Values.maxRollouts "200")
  (list "max-rollouts-per-namespace" .Values.maxRolloutsPerNamespace "50")
  (list "reload-min-interval" .Values.reloadMinInterval "1m")
  (list "rollout-timeout" .Values.rolloutTimeout "10m")) }}
{{- if eq (toString .Values.secretReloadPolicies) "false" }}
- "--secret-reload-policies=false"
{{- end }}
{{- end }}

{{/*
A value of the environment as text. Helm reads a number of YAML as a float, and would print a large
one as 1e+06.
*/}}
{{- define "vault-secrets-reloader.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else if not (kindIs "invalid" .) }}{{ toString . }}{{ end }}
{{- end }}

{{/*
The address of the status; an older values file has none.
*/}}
{{- define "vault-secrets-reloader.statusAddress" -}}
{{- $status := .Values.status | default dict }}
{{- if hasKey $status "address" }}{{ $status.address }}{{ else }}127.0.0.1:9180{{ end }}
{{- end }}

{{/*
"true" if the status is served at more than a loopback address.
*/}}
{{- define "vault-secrets-reloader.statusIsExposed" -}}
{{- $address := include "vault-secrets-reloader.statusAddress" . }}
{{- if and $address (not (regexMatch "^(127\\.|localhost:|\\[::1\\]:)" $address)) }}true{{ end }}
{{- end }}

{{- define "vault-secrets-reloader.statusAsksKubernetes" -}}
{{- include "vault-secrets-reloader.isTrue" (.Values.status | default dict).kubernetesAuth }}
{{- end }}

{{/*
"true" if replicas forward requests for the status to the leader: by the rule of the controller.
*/}}
{{- define "vault-secrets-reloader.statusIsForwarded" -}}
{{- $hasToken := or (include "vault-secrets-reloader.statusAsksKubernetes" .) (.Values.status | default dict).tokenFile }}
{{- $address := include "vault-secrets-reloader.statusAddress" . }}
{{- if and $hasToken $address (ne $address "127.0.0.1:9180") (include "vault-secrets-reloader.isElected" .) }}true{{ end }}
{{- end }}

{{/*
The name of the Service of the status, which has at most 63 characters.
*/}}
{{- define "vault-secrets-reloader.statusService" -}}
{{- printf "%s-status" (include "vault-secrets-reloader.fullname" . | trunc 56 | trimSuffix "-") }}
{{- end }}

{{/*
The file that declares more servers.
*/}}
{{- define "vault-secrets-reloader.servers" -}}
servers:
{{- range .Values.vaultServers }}
  - name: {{ .name | quote }}
    {{- with .aliases }}
    aliases:
      {{- range . }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- with .env }}
    env:
      {{- range $name, $value := . }}
      {{ $name }}: {{ include "vault-secrets-reloader.text" $value | quote }}
      {{- end }}
    {{- end }}
{{- end }}
{{- end }}

{{/*
The file of path rules.
*/}}
{{- define "vault-secrets-reloader.pathRules" -}}
rules:
{{- range .Values.pathRules }}
  {{- $rule := . }}
  - namespaces:
      {{- range .namespaces }}
      - {{ . | quote }}
      {{- end }}
    {{- range $field := list "servers" "vaultNamespaces" "paths" }}
    {{- if hasKey $rule $field }}
    {{ $field }}:
      {{- range index $rule $field }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
    {{- end }}
{{- end }}
{{- end }}

{{/*
May read the one Secret that an environment names, for its ca.crt. Takes the context, the environment and
the name of the Role.
*/}}
{{- define "vault-secrets-reloader.caRole" -}}
{{- $secret := .env.BAO_TLS_SECRET | default .env.VAULT_TLS_SECRET }}
{{- if and $secret (kindIs "string" $secret) }}
{{- $namespace := .env.BAO_TLS_SECRET_NS | default .env.VAULT_TLS_SECRET_NS | default "default" }}
---
# The one Secret that the environment names, for its ca.crt.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "vault-secrets-reloader.labels" .context | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: ["secrets"]
    resourceNames: [{{ $secret | quote }}]
    verbs: ["get", "list", "watch"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ $namespace }}
  labels:
    {{- include "vault-secrets-reloader.labels" .context | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "vault-secrets-reloader.serviceAccountName" .context }}
    namespace: {{ .context.Release.Namespace }}
{{- end }}
{{- end }}

{{/*
The ServiceAccount, as NAMESPACE/NAME, whose tokens an environment logs in with.
*/}}
{{- define "vault-secrets-reloader.loginAccount" -}}
{{- $account := .BAO_JWT_SERVICE_ACCOUNT | default .VAULT_JWT_SERVICE_ACCOUNT }}
{{- if and $account (kindIs "string" $account) }}
{{- if ne (len (splitList "/" $account)) 2 }}
{{- fail (printf "VAULT_JWT_SERVICE_ACCOUNT is %q: write NAMESPACE/NAME" $account) }}
{{- end }}
{{- $account }}
{{- end }}
{{- end }}

{{/*
A Role and its binding for the tokens of the ServiceAccount that VAULT_JWT_SERVICE_ACCOUNT names, in
its namespace. Given the context, the environment of a server and the name of the Role.
*/}}
{{- define "vault-secrets-reloader.tokenRole" -}}
{{- with include "vault-secrets-reloader.loginAccount" .env }}
{{- $account := splitList "/" . }}
---
# Tokens of the one ServiceAccount that the environment names, for logins to Vault.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $.name }}
  namespace: {{ first $account | quote }}
  labels:
    {{- include "vault-secrets-reloader.labels" $.context | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: ["serviceaccounts/token"]
    resourceNames: [{{ last $account | quote }}]
    verbs: ["create"]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $.name }}
  namespace: {{ first $account | quote }}
  labels:
    {{- include "vault-secrets-reloader.labels" $.context | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $.name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "vault-secrets-reloader.serviceAccountName" $.context }}
    namespace: {{ $.context.Release.Namespace }}
{{- end }}
{{- end }}

{{/*
The port the container listens on: that of env.LISTEN_ADDRESS where it names one, so that probes
and Service follow it, else service.internalPort.
*/}}
{{- define "vault-secrets-reloader.containerPort" -}}
{{- $listen := (.Values.env | default dict).LISTEN_ADDRESS }}
{{- $own := regexFind ":[0-9]+$" (include "vault-secrets-reloader.text" $listen) | trimPrefix ":" }}
{{- $own | default (include "vault-secrets-reloader.text" .Values.service.internalPort) }}
{{- end }}

{{/*
The image: by its digest if there is one, else by its tag.
*/}}
{{- define "vault-secrets-reloader.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (include "vault-secrets-reloader.text" .Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/*
"true" if there may be two replicas or more.
*/}}
{{- define "vault-secrets-reloader.hasReplicas" -}}
{{- $count := .Values.replicaCount }}
{{- if include "vault-secrets-reloader.isTrue" .Values.autoscaling.enabled }}
{{- $count = .Values.autoscaling.maxReplicas }}
{{- end }}
{{- if gt (int (include "vault-secrets-reloader.text" $count | default "1")) 1 }}true{{ end }}
{{- end }}

{{/*
The affinity of the values. Replicas also prefer places without another one, unless the values say
something about that.
*/}}
{{- define "vault-secrets-reloader.affinity" -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) }}
{{- $apart := .Values.podAntiAffinity | default dict }}
{{- $isWanted := and (include "vault-secrets-reloader.isNotFalse" $apart.enabled) (include "vault-secrets-reloader.hasReplicas" .) }}
{{- if and $isWanted (not (hasKey $affinity "podAntiAffinity")) }}
{{- $selector := dict "matchLabels" (include "vault-secrets-reloader.selectorLabels" . | fromYaml) }}
{{- $term := dict "topologyKey" ($apart.topologyKey | default "kubernetes.io/hostname") "labelSelector" $selector }}
{{- $preferred := list (dict "weight" 100 "podAffinityTerm" $term) }}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" $preferred) }}
{{- end }}
{{- with $affinity }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "vault-secrets-reloader.topologySpread" -}}
{{- $constraints := list }}
{{- $selector := dict "matchLabels" (include "vault-secrets-reloader.selectorLabels" . | fromYaml) }}
{{- range .Values.topologySpreadConstraints }}
{{- if hasKey . "labelSelector" }}
{{- $constraints = append $constraints . }}
{{- else }}
{{- $constraints = append $constraints (merge (dict "labelSelector" $selector) .) }}
{{- end }}
{{- end }}
{{- with $constraints }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/*
A probe: the settings of the values, with a GET of the path unless they name another handler. Takes the
settings and the path.
*/}}
{{- define "vault-secrets-reloader.probe" -}}
{{- $probe := deepCopy (.settings | default dict) }}
{{- if not (or $probe.exec $probe.grpc $probe.tcpSocket) }}
{{- $get := merge ($probe.httpGet | default dict) (dict "path" .path "port" "http") }}
{{- $_ := set $probe "httpGet" $get }}
{{- end }}
{{- toYaml $probe }}
{{- end }}

{{/*
The requests and limits of the container. Those of the values replace the default as a whole: a limit of
theirs may be below a request of the default.
*/}}
{{- define "vault-secrets-reloader.resources" -}}
{{- with .Values.resources | default .Values.defaultResources }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/*
The audience and the file of the token for Vault. No audience: the pod's own token is used.
*/}}
{{- define "vault-secrets-reloader.tokenAudience" -}}
{{- (.Values.serviceAccountToken | default dict).audience | default "" }}
{{- end }}

{{- define "vault-secrets-reloader.tokenFile" -}}
{{- (.Values.serviceAccountToken | default dict).path | default "/var/run/secrets/vault-secrets-reloader/token" }}
{{- end }}

{{/*
Whether the login of the default server uses that file: not if it requests tokens of a ServiceAccount, or
has an auth method without a JWT. A method that comes by valueFrom is not known here.
*/}}
{{- define "vault-secrets-reloader.logsInWithFile" -}}
{{- $env := .Values.env | default dict }}
{{- $method := $env.BAO_AUTH_METHOD | default $env.VAULT_AUTH_METHOD | default "jwt" }}
{{- $sendsJwt := or (kindIs "map" $method) (has $method (list "jwt" "kubernetes")) }}
{{- if and $sendsJwt (include "vault-secrets-reloader.tokenAudience" .) (not (or $env.BAO_JWT_SERVICE_ACCOUNT $env.VAULT_JWT_SERVICE_ACCOUNT)) }}true{{- end }}
{{- end }}

{{/*
The keys of the values that this chart does not know, one a line. Values below env, labels and such are
free; the schema looks into objects that the replaced chart did not have.
*/}}
{{- define "vault-secrets-reloader.unknownKeys" -}}
{{- $known := .Files.Get "files/values.yaml" | fromYaml }}
{{- $unset := list "autoscaling.targetCPUUtilizationPercentage" "autoscaling.targetMemoryUtilizationPercentage" }}
{{- $found := list }}
{{- range $key, $value := omit .Values "global" }}
{{- if not (hasKey $known $key) }}
{{- $found = append $found $key }}
{{- else if has $key (list "image" "serviceAccount" "service" "ingress" "leaderElection" "autoscaling" "status") }}
{{- range $name, $_ := $value }}
{{- $path := printf "%s.%s" $key $name }}
{{- if not (or (hasKey (index $known $key) $name) (has $path $unset)) }}
{{- $found = append $found $path }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- join "\n" $found }}
{{- end }}

{{/*
The labels of an object that has more of its own. Takes the context and the labels.
*/}}
{{- define "vault-secrets-reloader.labelsWith" -}}
{{- $labels := include "vault-secrets-reloader.labels" .context | fromYaml }}
{{- range $name, $value := .labels }}
{{- if not (hasPrefix "app.kubernetes.io/" $name) }}
{{- $_ := set $labels $name (include "vault-secrets-reloader.text" $value) }}
{{- end }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{/*
The groups of files/alerts.yaml, with the labels and links of the values.
*/}}
{{- define "vault-secrets-reloader.alertGroups" -}}
{{- $values := .Values.prometheusRule }}
{{- $groups := list }}
{{- range (.Files.Get "files/alerts.yaml" | fromYaml).groups }}
{{- $rules := list }}
{{- range .rules }}
{{- if not (and .alert (has .alert ($values.disabledAlerts | default list))) }}
{{- $rule := . }}
{{- if .alert }}
{{- range $name, $value := $values.alertLabels }}
{{- $_ := set $rule.labels $name (include "vault-secrets-reloader.text" $value) }}
{{- end }}
{{- with $values.runbookUrl }}
{{- $_ := set $rule.annotations "runbook_url" (replace "docs/runbook.md" . $rule.annotations.runbook_url) }}
{{- end }}
{{- end }}
{{- $rules = append $rules . }}
{{- end }}
{{- end }}
{{- $groups = append $groups (set . "rules" $rules) }}
{{- end }}
{{- toYaml $groups }}
{{- end }}

{{/*
The labels of the objects of `helm test`. The name differs from that of the controller, whose Service, budget
and NetworkPolicy must not select the pod.
*/}}
{{- define "vault-secrets-reloader.testLabels" -}}
{{- include "vault-secrets-reloader.labels" . | replace (printf "app.kubernetes.io/name: %s\n" (include "vault-secrets-reloader.name" .)) (printf "app.kubernetes.io/name: %s-test\n" (include "vault-secrets-reloader.name" . | trunc 58 | trimSuffix "-")) }}
{{- end }}
