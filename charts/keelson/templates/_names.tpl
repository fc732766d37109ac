{{/* Names, labels and the image. */}}

{{- define "keelson.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The first part of objects' names: the release, and the chart where the release does not name it. */}}
{{- define "keelson.fullname" -}}
{{- $name := include "keelson.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "keelson.operator" -}}
{{ include "keelson.fullname" . }}-operator
{{- end }}

{{- define "keelson.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "keelson.operator" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "keelson.selector" -}}
app.kubernetes.io/name: {{ include "keelson.name" . }}-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels and annotations of an object: list of the root, further labels, further annotations. Further ones win. */}}
{{- define "keelson.metadata" -}}
{{- $root := index . 0 -}}
{{- $own := include "keelson.selector" $root | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "keelson" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
labels:
  {{- merge dict (index . 1) $own $root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge dict (index . 2) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "keelson.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The watched namespaces, as a JSON list; empty for all. */}}
{{- define "keelson.namespaces" -}}
{{- $namespaces := list -}}
{{- range .Values.watchNamespaces -}}
{{- $namespaces = append $namespaces (tpl . $) -}}
{{- end -}}
{{ $namespaces | uniq | toJson }}
{{- end }}
