{{/* Rules that several network policies share. */}}

{{- define "ralb.networkPolicy.dns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
  {{- with .Values.networkPolicy.dns }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "ralb.networkPolicy.operator" -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "ralb.selector" (dict "root" $ "component" "operator") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 9300}
{{- end }}
