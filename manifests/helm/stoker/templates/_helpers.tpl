{{/* Labels of every object: those of the kustomize base, and the chart's own. */}}
{{- define "stoker.labels" -}}
app.kubernetes.io/name: stoker
app.kubernetes.io/part-of: stoker
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image: a digest goes before a tag, and an image's own tag before that of all. Takes a dict of `root` and `image`. */}}
{{- define "stoker.image" -}}
{{- $all := .root.Values.images -}}
{{- $name := printf "%s/%s" $all.registry .image.repository -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ coalesce .image.tag $all.tag .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The objects of a file that the kustomize base has too, of the named kinds, with the chart's labels. `files/` is written by
     `make generate`. Takes a dict of `root`, `file` and `kinds`. */}}
{{- define "stoker.file" -}}
{{- $root := .root -}}
{{- $kinds := .kinds -}}
{{- range splitList "\n---\n" (.root.Files.Get .file) }}
{{- $object := fromYaml . }}
{{- if has $object.kind $kinds }}
{{- $labels := merge (dict) ($object.metadata.labels | default dict) (include "stoker.labels" $root | fromYaml) }}
{{- $_ := set $object.metadata "labels" $labels }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
