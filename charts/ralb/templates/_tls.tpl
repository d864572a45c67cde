{{/* How certificates are made and where programs find them. */}}

{{/* The operator's --tls: it keeps the certificates of the bootstrap itself; those of cert-manager are mounted. */}}
{{- define "ralb.operator.tls" -}}
{{- if eq .Values.tls.mode "Bootstrap" }}bootstrap
{{- else if eq .Values.tls.mode "CertManager" }}dir:/etc/ralb-tls
{{- else }}off
{{- end }}
{{- end }}

{{- define "ralb.gateway.tlsMount" -}}
{{- if ne .Values.tls.mode "Off" }}
- {name: tls, mountPath: /etc/ralb-tls, readOnly: true}
{{- end }}
{{- end }}

{{/* The Secret appears once an operator made it, or cert-manager did; until then the pods wait for it. */}}
{{- define "ralb.gateway.tlsVolume" -}}
{{- if ne .Values.tls.mode "Off" }}
- name: tls
  secret: {secretName: {{ include "ralb.fullname" . }}-gateway-tls, defaultMode: 0440}
{{- end }}
{{- end }}
