{{/* Labels by which the pods of one part are selected; called with (list . "gateway"). */}}
{{- define "corolla.select" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "corolla.labels" -}}
{{ include "corolla.select" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{- define "corolla.name" -}}
{{ printf "%s-%s" (index . 0).Release.Name (index . 1) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Whose image, and which user of the broker: batches are answered by the gateway's own code. */}}
{{- define "corolla.kind" -}}
{{ ternary "gateway" (index . 1) (eq (index . 1) "batches") }}
{{- end }}

{{- define "corolla.image" -}}
{{- $root := index . 0 -}}
{{ index $root.Values.image (include "corolla.kind" .) }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{/* What all pods have in common. */}}
{{- define "corolla.pod" -}}
automountServiceAccountToken: false
{{- with (index . 0).Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with (index (index . 0).Values (index . 1)) }}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "corolla.select" . | nindent 8 }}
{{- end }}

{{- define "corolla.container" -}}
image: {{ include "corolla.image" . | quote }}
imagePullPolicy: {{ (index . 0).Values.image.pullPolicy }}
securityContext:
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
resources: {{ toYaml (index (index . 0).Values (index . 1)).resources | nindent 2 }}
{{- end }}

{{/* Environment: the broker's URL by reference, then what the values say. */}}
{{- define "corolla.environment" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $kind := include "corolla.kind" . -}}
- name: COROLLA_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.broker.secret }}
      key: {{ index $root.Values.broker (printf "%sKey" $kind) }}
- name: COROLLA_CATALOG
  value: /etc/corolla/catalog.toml
{{- if ne $part "batches" }}
# The port named metrics, where monitoring comes and clients do not.
- name: COROLLA_METRICS_BIND
  value: 0.0.0.0:9100
{{- end }}
{{- if eq $kind "gateway" }}
{{- if not $root.Values.batches.enabled }}
- name: COROLLA_BATCH_API
  value: "off"
{{- else if $root.Values.files.url }}
- name: COROLLA_FILES
  value: {{ $root.Values.files.url | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := merge (dict) (index $root.Values $part).settings (index $root.Values $kind).settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $key := merge (dict) (index $root.Values $part).secrets (index $root.Values $kind).secrets }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $root.Values.broker.secret }}, key: {{ $key }}}
{{- end }}
{{- end }}

{{/* Whether there is a volume for the files of batches: empty where not. */}}
{{- define "corolla.keepsFiles" -}}
{{- if and .Values.batches.enabled (not .Values.files.url) }}yes{{ end -}}
{{- end }}

{{/* That volume, of the pods that write or read them. */}}
{{- define "corolla.files" -}}
name: files
persistentVolumeClaim: {claimName: {{ .Values.files.claim | default (include "corolla.name" (list . "files")) }}}
{{- end }}
