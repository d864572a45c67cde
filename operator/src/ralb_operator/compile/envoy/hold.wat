;; Holds a response's headers until the first byte of its body, so that a stream counts as answered only when its first
;; token is there: until then Envoy may still retry it elsewhere, hedge it, or time it out.
;; Model servers send the headers of a stream before they even queue the request.
;; Proxy-Wasm ABI 0.2.1, nothing imported. Action codes: 0 = continue, 1 = stop iteration.
(module
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) i32.const 2048)
  (func (export "proxy_on_context_create") (param $context i32) (param $parent i32))
  (func (export "proxy_on_vm_start") (param $context i32) (param $size i32) (result i32) i32.const 1)
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32) i32.const 1)
  ;; stop unless the response ends with its headers
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    local.get $end
    i32.eqz)
  ;; stop while the body is empty and goes on
  (func (export "proxy_on_response_body") (param $context i32) (param $size i32) (param $end i32) (result i32)
    local.get $size
    local.get $end
    i32.or
    i32.eqz)
  (func (export "proxy_on_done") (param $context i32) (result i32) i32.const 1)
  (func (export "proxy_on_log") (param $context i32))
  (func (export "proxy_on_delete") (param $context i32)))
