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
The flags of the rules for rollouts, those that are not the program's defaults: extraArgs may hold the
others.
*/}}
{{- define "vault-secrets-reloader.rolloutArgs" -}}
{{- $waves := .Values.waves | default dict }}
{{- if eq (toString $waves.enabled) "false" }}
- "--waves=false"
{{- end }}
{{- $flags := list
  (list "waves-from" $waves.from "5")
  (list "wave-first" $waves.first "1")
  (list "wave-step" $waves.step "25%")
  (list "max-rollouts" .Values.maxRollouts "200")
  (list "max-rollouts-per-namespace" .Values.maxRolloutsPerNamespace "50")
  (list "reload-min-interval" .Values.reloadMinInterval "1m")
  (list "rollout-timeout" .Values.rolloutTimeout "10m") }}
{{- range $flag := $flags }}
{{- $text := include "vault-secrets-reloader.text" (index $flag 1) }}
{{- if and $text (ne $text (index $flag 2)) }}
- {{ printf "--%s=%s" (index $flag 0) $text | quote }}
{{- end }}
{{- end }}
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
The port the container listens on: that of env.LISTEN_ADDRESS where it names one, so that probes
and Service follow it, else service.internalPort.
*/}}
{{- define "vault-secrets-reloader.containerPort" -}}
{{- $listen := (.Values.env | default dict).LISTEN_ADDRESS }}
{{- $own := regexFind ":[0-9]+$" (include "vault-secrets-reloader.text" $listen) | trimPrefix ":" }}
{{- $own | default (include "vault-secrets-reloader.text" .Values.service.internalPort) }}
{{- end }}
