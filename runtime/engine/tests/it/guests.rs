//! Guests in the component text format, so that these tests need no WebAssembly toolchain.

/// A command whose `run` is `body`, a core function of no parameters that returns 0 for success.
pub(crate) fn command(body: &str) -> String {
    format!(
        r#"(component
  (core module $m
    (memory (export "memory") 1)
    (table 1 funcref)
    (func $inner_work {body})
    (func $run (export "run") (result i32) (call $inner_work) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"#
    )
}

/// A command that fails in words: `run` returns an error.
pub(crate) const FAILING: &str = r#"(component
  (core module $m (func (export "run") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"#;

/// A command that calls `wasi:cli/exit` with code 7.
pub(crate) const EXITING: &str = r#"(component
  (import "wasi:cli/exit@0.2.0" (instance $exit
    (export "exit-with-code" (func (param "status-code" u8)))))
  (core func $exit (canon lower (func $exit "exit-with-code")))
  (core module $m
    (import "host" "exit" (func $exit (param i32)))
    (func (export "run") (result i32) (call $exit (i32.const 7)) (i32.const 0)))
  (core instance $i (instantiate $m (with "host" (instance (export "exit" (func $exit))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"#;

/// A component that wants what nobody offers.
pub(crate) const DEMANDING: &str = r#"(component (import "acme:db/sql@1.0.0" (instance (export "query" (func)))))"#;

/// Streams as both guests below import them, and a module with memory and an allocator.
const STREAMS: &str = r#"
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (alias outer 1 $error-type (type $e0))
    (export "error" (type $e (eq $e0)))
    (type $se0 (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $se0)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $se)))))
    (export "[method]output-stream.blocking-splice"
      (func (param "self" (borrow $out)) (param "src" (borrow $in)) (param "len" u64)
        (result (result u64 (error $se)))))))
  (alias export $streams "input-stream" (type $in))
  (alias export $streams "output-stream" (type $out))
  (core module $libc
    (memory (export "memory") 2)
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $splice (canon lower (func $streams "[method]output-stream.blocking-splice")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $drop-in (canon resource.drop $in))
  (core func $drop-out (canon resource.drop $out))
"#;

/// A command that prints its arguments, a line each, then `body` with `$line` (16 bytes at 1024) and `$out` at hand.
pub(crate) fn printer(body: &str) -> String {
    format!(
        r#"(component
  {STREAMS}
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $out (type $o0))
    (export "output-stream" (type $o (eq $o0)))
    (export "get-stdout" (func (result (own $o))))))
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $arguments (canon lower (func $environment "get-arguments")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $m
    (import "libc" "memory" (memory 2))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "arguments" (func $arguments (param i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (data (i32.const 1024) "fifteen letters\n")
    (func (export "run") (result i32)
      (local $out i32) (local $at i32) (local $left i32)
      (local.set $out (call $get-stdout))
      (call $arguments (i32.const 0))
      (local.set $at (i32.load (i32.const 0)))
      (local.set $left (i32.load (i32.const 4)))
      (block $done
        (loop $next
          (br_if $done (i32.eqz (local.get $left)))
          (call $write (local.get $out) (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)) (i32.const 16))
          (call $write (local.get $out) (i32.const 1039) (i32.const 1) (i32.const 16))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br $next)))
      {body}
      (i32.const 0)))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "get-stdout" (func $get-stdout))
      (export "arguments" (func $arguments))
      (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $r (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $r)))"#
    )
}

/// Prints without end.
pub(crate) const FLOOD: &str =
    "(loop $again (call $write (local.get $out) (i32.const 1024) (i32.const 4096) (i32.const 16)) (br $again))";

/// An HTTP component that answers by method: GET says hello, PUT echoes, POST traps in `$handle_post`, DELETE loops for
/// ever, PATCH begins a body and traps, OPTIONS eats memory.
pub(crate) fn web() -> String {
    let types = WEB_TYPES.replace("{ERROR_CODE}", ERROR_CODE);
    format!("(component {STREAMS} {types} {WEB_HANDLER})")
}

/// `error-code` of wasi:http, the same in 0.2 and 0.3, with what it is made of.
const ERROR_CODE: &str = r#"
    (type $dns0 (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns0)))
    (type $tls0 (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls (eq $tls0)))
    (type $field0 (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $field (eq $field0)))
    (type $ec0 (variant
      (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found") (case "destination-unavailable")
      (case "destination-IP-prohibited") (case "destination-IP-unroutable") (case "connection-refused")
      (case "connection-terminated") (case "connection-timeout") (case "connection-read-timeout")
      (case "connection-write-timeout") (case "connection-limit-reached") (case "TLS-protocol-error")
      (case "TLS-certificate-error") (case "TLS-alert-received" $tls) (case "HTTP-request-denied")
      (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32)) (case "HTTP-request-header-size" (option $field))
      (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $field)
      (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $field) (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $field)
      (case "HTTP-response-transfer-coding" (option string)) (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout") (case "HTTP-upgrade-failed") (case "HTTP-protocol-error")
      (case "loop-detected") (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $ec (eq $ec0)))"#;

const WEB_TYPES: &str = r#"
  (import "wasi:http/types@0.2.0" (instance $http
    (alias outer 1 $in (type $in0))
    (alias outer 1 $out (type $out0))
    (export "input-stream" (type $in (eq $in0)))
    (export "output-stream" (type $out (eq $out0)))
    (type $method0 (variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect")
      (case "options") (case "trace") (case "patch") (case "other" string)))
    (export "method" (type $method (eq $method0)))
    {ERROR_CODE}
    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type $request (sub resource)))
    (export "incoming-body" (type $inbody (sub resource)))
    (export "outgoing-response" (type $response (sub resource)))
    (export "outgoing-body" (type $outbody (sub resource)))
    (export "response-outparam" (type $outparam (sub resource)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]incoming-request.method" (func (param "self" (borrow $request)) (result $method)))
    (export "[method]incoming-request.consume"
      (func (param "self" (borrow $request)) (result (result (own $inbody)))))
    (export "[method]incoming-body.stream" (func (param "self" (borrow $inbody)) (result (result (own $in)))))
    (export "[constructor]outgoing-response" (func (param "headers" (own $fields)) (result (own $response))))
    (export "[method]outgoing-response.body"
      (func (param "self" (borrow $response)) (result (result (own $outbody)))))
    (export "[method]outgoing-body.write" (func (param "self" (borrow $outbody)) (result (result (own $out)))))
    (export "[static]outgoing-body.finish"
      (func (param "this" (own $outbody)) (param "trailers" (option (own $fields))) (result (result (error $ec)))))
    (export "[static]response-outparam.set"
      (func (param "param" (own $outparam)) (param "response" (result (own $response) (error $ec)))))))
  (alias export $http "incoming-request" (type $request))
  (alias export $http "incoming-body" (type $inbody))
  (alias export $http "response-outparam" (type $outparam))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $method (canon lower (func $http "[method]incoming-request.method")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $consume (canon lower (func $http "[method]incoming-request.consume") (memory (core memory $libc "memory"))))
  (core func $read (canon lower (func $http "[method]incoming-body.stream") (memory (core memory $libc "memory"))))
  (core func $response (canon lower (func $http "[constructor]outgoing-response")))
  (core func $body (canon lower (func $http "[method]outgoing-response.body") (memory (core memory $libc "memory"))))
  (core func $open (canon lower (func $http "[method]outgoing-body.write") (memory (core memory $libc "memory"))))
  (core func $finish (canon lower (func $http "[static]outgoing-body.finish")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $set (canon lower (func $http "[static]response-outparam.set") (memory (core memory $libc "memory"))))
"#;

const WEB_HANDLER: &str = r#"
  (core module $m
    (import "libc" "memory" (memory 2))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "splice" (func $splice (param i32 i32 i64 i32)))
    (import "host" "drop-in" (func $drop-in (param i32)))
    (import "host" "drop-out" (func $drop-out (param i32)))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "method" (func $method (param i32 i32)))
    (import "host" "consume" (func $consume (param i32 i32)))
    (import "host" "read" (func $read (param i32 i32)))
    (import "host" "response" (func $response (param i32) (result i32)))
    (import "host" "body" (func $body (param i32 i32)))
    (import "host" "open" (func $open (param i32 i32)))
    (import "host" "finish" (func $finish (param i32 i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (data (i32.const 1024) "hello\n")
    (func $handle_post unreachable)
    (func $echo (param $request i32) (param $stream i32)
      (local $in i32)
      (call $consume (local.get $request) (i32.const 0))
      (call $read (i32.load (i32.const 4)) (i32.const 8))
      (local.set $in (i32.load (i32.const 12)))
      (loop $more
        (call $splice (local.get $stream) (local.get $in) (i64.const 65536) (i32.const 32))
        (br_if $more (i32.eqz (i32.load8_u (i32.const 32)))))
      (call $drop-in (local.get $in)))
    (func (export "handle") (param $request i32) (param $outparam i32)
      (local $method i32) (local $response i32) (local $body i32) (local $stream i32)
      (call $method (local.get $request) (i32.const 64))
      (local.set $method (i32.load8_u (i32.const 64)))
      (if (i32.eq (local.get $method) (i32.const 2)) (then (call $handle_post)))
      (if (i32.eq (local.get $method) (i32.const 4)) (then (loop $forever (br $forever))))
      (if (i32.eq (local.get $method) (i32.const 6)) (then (drop (memory.grow (i32.const 1000)))))
      (local.set $response (call $response (call $fields)))
      (call $body (local.get $response) (i32.const 0))
      (local.set $body (i32.load (i32.const 4)))
      (call $set (local.get $outparam) (i32.const 0) (local.get $response)
        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $open (local.get $body) (i32.const 0))
      (local.set $stream (i32.load (i32.const 4)))
      (if (i32.eq (local.get $method) (i32.const 3))
        (then (call $echo (local.get $request) (local.get $stream)))
        (else (call $write (local.get $stream) (i32.const 1024) (i32.const 6) (i32.const 32))))
      (if (i32.eq (local.get $method) (i32.const 8)) (then (call $handle_post)))
      (call $drop-out (local.get $stream))
      (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 32))))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "write" (func $write)) (export "splice" (func $splice))
      (export "drop-in" (func $drop-in)) (export "drop-out" (func $drop-out))
      (export "fields" (func $fields)) (export "method" (func $method)) (export "consume" (func $consume))
      (export "read" (func $read)) (export "response" (func $response)) (export "body" (func $body))
      (export "open" (func $open)) (export "finish" (func $finish)) (export "set" (func $set))))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $i "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler))
"#;

/// A command of WASI 0.3, as [`command`] is one of 0.2.
pub(crate) fn async_command(body: &str) -> String {
    command(body)
        .replace(r#"(func $run (result (result)) (canon"#, r#"(func $run async (result (result)) (canon"#)
        .replace("wasi:cli/run@0.2.0", "wasi:cli/run@0.3.0")
}

/// A service of `wasi:http` 0.3 that answers by method: GET with 200, PUT with an error code, POST traps in
/// `$handle_post`, DELETE loops for ever.
pub(crate) fn service() -> String {
    format!("(component {} {SERVICE_HANDLER})", SERVICE_TYPES.replace("{ERROR_CODE}", ERROR_CODE))
}

const SERVICE_TYPES: &str = r#"
  (import "wasi:http/types@0.3.0" (instance $http
    (type $method0 (variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect")
      (case "options") (case "trace") (case "patch") (case "other" string)))
    (export "method" (type $method (eq $method0)))
    {ERROR_CODE}
    (export "fields" (type $fields (sub resource)))
    (export "request" (type $request (sub resource)))
    (export "response" (type $response (sub resource)))
    (type $contents (stream u8))
    (type $trailers (future (result (option (own $fields)) (error $ec))))
    (type $sent (future (result (error $ec))))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]request.get-method" (func (param "self" (borrow $request)) (result $method)))
    (export "[static]response.new"
      (func (param "headers" (own $fields)) (param "contents" (option $contents)) (param "trailers" $trailers)
        (result (tuple (own $response) $sent))))))
  (alias export $http "fields" (type $fields))
  (alias export $http "request" (type $request))
  (alias export $http "response" (type $response))
  (alias export $http "error-code" (type $ec))
  (type $trailers (future (result (option (own $fields)) (error $ec))))
  (core module $libc
    (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
  (core instance $libc (instantiate $libc))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $method (canon lower (func $http "[method]request.get-method")
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core func $response (canon lower (func $http "[static]response.new") (memory (core memory $libc "memory"))))
  (core func $future (canon future.new $trailers))
  (core func $write (canon future.write $trailers async (memory (core memory $libc "memory"))))
  (core func $drop (canon resource.drop $request))
"#;

const SERVICE_HANDLER: &str = r#"
  (core module $m
    (import "libc" "memory" (memory 2))
    (import "host" "fields" (func $fields (result i32)))
    (import "host" "method" (func $method (param i32 i32)))
    (import "host" "response" (func $response (param i32 i32 i32 i32 i32)))
    (import "host" "future" (func $future (result i64)))
    (import "host" "write" (func $write (param i32 i32) (result i32)))
    (import "host" "drop" (func $drop (param i32)))
    (func $handle_post unreachable)
    (func (export "handle") (param $request i32) (result i32)
      (local $method i32) (local $trailers i64)
      (call $method (local.get $request) (i32.const 64))
      (local.set $method (i32.load8_u (i32.const 64)))
      (call $drop (local.get $request))
      (if (i32.eq (local.get $method) (i32.const 2)) (then (call $handle_post)))
      (if (i32.eq (local.get $method) (i32.const 4)) (then (loop $forever (br $forever))))
      (memory.fill (i32.const 128) (i32.const 0) (i32.const 64))
      (if (i32.eq (local.get $method) (i32.const 3)) (then
        (i32.store8 (i32.const 128) (i32.const 1))
        (i32.store8 (i32.const 136) (i32.const 36))
        (return (i32.const 128))))
      (local.set $trailers (call $future))
      (call $response (call $fields) (i32.const 0) (i32.const 0)
        (i32.wrap_i64 (local.get $trailers)) (i32.const 256))
      (drop (call $write
        (i32.wrap_i64 (i64.shr_u (local.get $trailers) (i64.const 32))) (i32.const 512)))
      (i32.store (i32.const 136) (i32.load (i32.const 256)))
      (i32.const 128)))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "fields" (func $fields))
      (export "method" (func $method))
      (export "response" (func $response))
      (export "future" (func $future))
      (export "write" (func $write))
      (export "drop" (func $drop))))))
  (func $handle async (param "request" (own $request)) (result (result (own $response) (error $ec)))
    (canon lift (core func $i "handle") (memory (core memory $libc "memory"))))
  (instance $handler
    (export "handle" (func $handle)))
  (export "wasi:http/handler@0.3.0" (instance $handler))"#;
