{{/*
What the operator does in each watched namespace: it reads EtcdClusters and their children, applies and deletes the children,
writes the status, and tells about it in Events.
*/}}
{{- define "keelson.rules" -}}
- apiGroups: [keelson.dev]
  resources: [etcdclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [keelson.dev]
  resources: [etcdclusters/status]
  verbs: [update]
# blockOwnerDeletion on children asks for this where the admission plugin is on.
- apiGroups: [keelson.dev]
  resources: [etcdclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
# Certificates and keys of clusters with TLS.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
