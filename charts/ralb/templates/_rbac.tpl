{{/*
What the operator may do. The same rules are in operator/src/ralb_operator/cluster/permissions.py; tests compare the two.
Secrets of external providers are not here: they are granted one by one with credentials.secrets.
*/}}

{{/* In every watched namespace. */}}
{{- define "ralb.rbac.watched" -}}
- apiGroups: [ralb.dev]
  resources: [modelpools, modeltiers, routingpolicies, semanticroutes, tenants, toolbackends]
  verbs: [get, list, watch]
- apiGroups: [ralb.dev]
  resources:
    - modelpools/status
    - modeltiers/status
    - routingpolicies/status
    - semanticroutes/status
    - tenants/status
    - toolbackends/status
  verbs: [patch]
- apiGroups: [""]
  resources: [pods, services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* In the operator's own namespace. */}}
{{- define "ralb.rbac.own" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update, patch, delete]
{{- if eq .Values.tls.mode "Bootstrap" }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames:
    - {{ include "ralb.fullname" . }}-operator-tls
    - {{ include "ralb.fullname" . }}-gateway-tls
    - {{ include "ralb.fullname" . }}-ca
  verbs: [get, list, watch, update]
# Creation cannot be limited to names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
{{- end }}
{{- end }}
