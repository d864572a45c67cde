{{/* How certificates are made and where programs find them. */}}

{{/* The operator's --tls: it keeps the certificates of the bootstrap itself; those of cert-manager are mounted. */}}
{{- define "ralb.operator.tls" -}}
{{- if eq .Values.tls.mode "Bootstrap" }}bootstrap
{{- else if eq .Values.tls.mode "CertManager" }}dir:/etc/ralb-tls
{{- else }}off
{{- end }}
{{- end }}
