{{- define "bioengine.name" -}}
{{- if contains "bioengine" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-bioengine" .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "bioengine.labels" -}}
app.kubernetes.io/name: bioengine
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bioengine.selector" -}}
app.kubernetes.io/name: bioengine
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "bioengine.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end }}bioengine-{{ .component }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "bioengine.tokenSecret" -}}
{{- .Values.workerToken.existingSecret | default (printf "%s-worker-token" (include "bioengine.name" .)) }}
{{- end }}

{{/* The names by which pods reach the server: of its own namespace, and of others. */}}
{{- define "bioengine.hosts" -}}
{{- $name := include "bioengine.name" . -}}
{{- $full := printf "%s.%s" $name .Release.Namespace -}}
{{- compact (list $name $full (printf "%s.svc" $full) (printf "%s.svc.cluster.local" $full) (ternary .Values.ingress.host "" .Values.ingress.enabled)) | join "," }}
{{- end }}

{{- define "bioengine.publicUrl" -}}
{{- if .Values.server.publicUrl }}{{ .Values.server.publicUrl }}
{{- else if .Values.ingress.enabled }}{{ ternary "https" "http" (ne .Values.ingress.tlsSecret "") }}://{{ .Values.ingress.host }}
{{- else }}http://{{ include "bioengine.name" . }}.{{ .Release.Namespace }}.svc:{{ .Values.server.service.port }}
{{- end }}
{{- end }}

{{/* What a server's and a worker's pod have alike. `.pod`: values.server or values.workers. */}}
{{- define "bioengine.pod" -}}
automountServiceAccountToken: false
# Else a service `bioengine` would set BIOENGINE_PORT, to something that is none.
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.user }}
  runAsUser: {{ . | int64 }}
  runAsGroup: {{ . | int64 }}
  # The same number: files of volumes are then open to this user alone.
  fsGroup: {{ . | int64 }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with index $.pod $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bioengine.container" -}}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "bioengine.mounts" -}}
- {name: run, mountPath: /run/bioengine}
- {name: temporary, mountPath: /tmp}
- {name: memory, mountPath: /dev/shm}
- {name: token, mountPath: /run/secrets/bioengine, readOnly: true}
{{- end }}

{{- define "bioengine.volumes" -}}
- name: run
  emptyDir: {sizeLimit: 1Gi}
- name: temporary
  emptyDir: {sizeLimit: {{ .pod.temporary }}}
- name: memory
  emptyDir: {medium: Memory, sizeLimit: {{ .pod.sharedMemory }}}
- name: token
  secret:
    secretName: {{ include "bioengine.tokenSecret" .root }}
    defaultMode: 0440
    items: [{key: {{ .root.Values.workerToken.key }}, path: token}]
    optional: false
{{- end }}

{{- define "bioengine.settings" -}}
{{- range $name, $value := . }}
{{- /* Large numbers come as floating-point ones. */}}
{{- $text := (kindIs "float64" $value) | ternary (int64 $value) $value | toString }}
- {name: {{ $name }}, value: {{ $text | quote }}}
{{- end }}
{{- end }}
