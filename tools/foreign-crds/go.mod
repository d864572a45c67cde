// Custom resource definitions of other projects that tests install. Only their YAML is read, by `go mod download`; no Go code
// is built, so `go mod tidy` would empty this file: change versions with `go get module@version`.
module ralb.dev/tools/foreign-crds

go 1.26.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.6.3
	sigs.k8s.io/gateway-api-inference-extension v1.6.0
)
