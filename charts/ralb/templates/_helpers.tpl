{{/* Names, labels, images, and the parts all pods share. Nothing here makes an object of its own. */}}

{{- define "ralb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of all names; 50 characters leave room for the longest suffix within 63. */}}
{{- define "ralb.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select pods: argument is a dict of root and component. They never change between versions. */}}
{{- define "ralb.selector" -}}
app.kubernetes.io/name: {{ include "ralb.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* All labels of an object: argument is a dict of root and component. */}}
{{- define "ralb.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "ralb.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: ralb
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of a pod: argument is a dict of root, component and podLabels. No version: it would restart pods for nothing. */}}
{{- define "ralb.podLabels" -}}
{{ include "ralb.selector" . }}
app.kubernetes.io/part-of: ralb
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image: argument is a dict of root and image. The digest, if given, decides. */}}
{{- define "ralb.image" -}}
{{- $registry := .image.registry | default .root.Values.imageRegistry }}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") }}
{{- $tag := .image.tag | default .root.Chart.AppVersion }}
{{- if .image.digest }}{{ $name }}:{{ $tag }}@{{ .image.digest }}{{ else }}{{ $name }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "ralb.operator.serviceAccount" -}}
{{- default (printf "%s-operator" (include "ralb.fullname" .)) .Values.operator.serviceAccount.name }}
{{- end }}

{{- define "ralb.gateway.serviceAccount" -}}
{{- default (printf "%s-gateway" (include "ralb.fullname" .)) .Values.gateway.serviceAccount.name }}
{{- end }}

{{/* host:port of the operator as gateways and pickers call it; one of the names of its certificate. */}}
{{- define "ralb.operator.address" -}}
{{ include "ralb.fullname" . }}-operator.{{ .Release.Namespace }}.svc:{{ .Values.operator.service.port }}
{{- end }}

{{/* Listen address with a port: argument is a dict of root and port. */}}
{{- define "ralb.listen" -}}
{{- if contains ":" .root.Values.listenAddress }}[{{ .root.Values.listenAddress }}]:{{ .port }}{{ else }}{{ .root.Values.listenAddress }}:{{ .port }}{{ end }}
{{- end }}

{{/* Pod Security "restricted", for a pod. */}}
{{- define "ralb.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Pod Security "restricted", for a container. */}}
{{- define "ralb.containerSecurity" -}}
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

{{/* Where pods may run: argument is a dict of root, component and values (those of the component). */}}
{{- define "ralb.scheduling" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- else }}
{{- if .values.spreadEvenly }}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "ralb.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Mistakes that a schema cannot see; they end the rendering with what to do. */}}
{{- define "ralb.checks" -}}
{{- if has (int .Values.gateway.port) (list 9400 9402 9901 9902) }}
{{- fail (printf "gateway.port %v is a port of the gateway's own; choose another one" .Values.gateway.port) }}
{{- end }}
{{- if gt (int .Values.gateway.drainMinSeconds) (int .Values.gateway.drainSeconds) }}
{{- fail "gateway.drainMinSeconds is above drainSeconds" }}
{{- end }}
{{- if and .Values.epp.enabled (not .Values.epp.pools) }}
{{- fail "epp.enabled needs epp.pools: the ModelPools to pick from, each with a port" }}
{{- end }}
{{- $ports := dict "9003" true "9400" true }}
{{- range .Values.epp.pools }}
{{- if hasKey $ports (toString .port) }}
{{- fail (printf "epp.pools: port %v is taken; give every pool a port of its own, and neither 9003 nor 9400" .port) }}
{{- end }}
{{- $_ := set $ports (toString .port) true }}
{{- end }}
{{- with .Values.gateway.autoscaling }}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) }}
{{- fail "gateway.autoscaling.maxReplicas is below minReplicas" }}
{{- end }}
{{- if and .enabled (not .processorCPU) (not .envoyCPU) (not .metrics) }}
{{- fail "gateway.autoscaling has nothing to look at: set processorCPU, envoyCPU or metrics" }}
{{- end }}
{{- end }}
{{- $seen := dict }}
{{- range .Values.credentials.secrets }}
{{- if hasKey $seen .namespace }}
{{- fail (printf "credentials.secrets names namespace %s twice; put its names into one entry" .namespace) }}
{{- end }}
{{- $_ := set $seen .namespace true }}
{{- end }}
{{- if .Values.watch.namespaces }}
{{- range .Values.credentials.secrets }}
{{- if not (has .namespace $.Values.watch.namespaces) }}
{{- fail (printf "credentials.secrets names namespace %s, which is not in watch.namespaces" .namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
