{{- define "egresslab.labels" -}}
app.kubernetes.io/part-of: egresslab
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "egresslab.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "egresslab.scrape" -}}
{{- if .root.Values.monitoring.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
{{- end }}
{{- end }}

{{- /* Processes that need nothing of the node: no root, no way to it, nothing to write to. */ -}}
{{- define "egresslab.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* The objects of one manifest that grant rights, with the chart's labels: what the lab grants is what a cluster grants. */ -}}
{{- define "egresslab.rights" -}}
{{- $labels := fromYaml (include "egresslab.labels" .root) }}
{{- range $document := regexSplit "(?m)^---$" (.root.Files.Get .file) -1 }}
{{- $object := fromYaml $document }}
{{- if has $object.kind (list "ServiceAccount" "Role" "RoleBinding" "ClusterRole" "ClusterRoleBinding") }}
{{- $_ := set $object.metadata "labels" (merge (default (dict) $object.metadata.labels) $labels) }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
