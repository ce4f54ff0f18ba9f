//! Every bound of this crate, with its reason.

/// How deep a document may be nested. The deepest built-in type needs about 25; the JSON parser itself gives up at 128.
pub const DEPTH_MAX: usize = 100;

/// How many unknown or duplicate fields one request reports; more would only bury the first ones.
pub const PROBLEMS_MAX: usize = 100;

/// How many operations one JSON patch may hold, as upstream has it.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// How many bytes the `copy` and `move` operations of one JSON patch may handle: as much as a request body may hold.
pub const JSON_PATCH_COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How many documents one YAML stream may hold.
pub const YAML_DOCUMENTS_MAX: usize = 10_000;

/// How many bytes of memory one YAML stream may unfold to, aliases followed. A request body of the usual 3 MiB without
/// aliases stays below half of it.
pub const YAML_UNFOLDED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How deep brackets may be nested in a YAML stream before it is read at all: reading takes as long as there are tokens
/// times open brackets. Twice what a document may be nested ([`DEPTH_MAX`]), because brackets of running text may count.
pub const YAML_FLOW_DEPTH_MAX: usize = 256;

/// `metadata.name` of most kinds: a DNS subdomain (RFC 1123).
pub const SUBDOMAIN_MAX: usize = 253;

/// A DNS label (RFC 1123, RFC 1035).
pub const LABEL_MAX: usize = 63;

/// The sum of all annotations' keys and values, as upstream has it.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The data of one Secret or ConfigMap, as upstream has it.
pub const DATA_BYTES_MAX: usize = 1024 * 1024;

/// How large a schema's pattern may become when it is compiled: some hundred times the longest that charts use.
pub const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// What one evaluation of an expression may cost: kube-apiserver's `PerCallLimit`. A step costs one; a core makes some
/// ten million a second.
pub const CEL_CALL_COST_MAX: u64 = 1_000_000;

/// What all rules of one object may cost together: kube-apiserver's `RuntimeCELCostBudget`.
pub const CEL_TOTAL_COST_MAX: u64 = 10_000_000;

/// Longest expression. The longest rules in the field have some 2 KB.
pub const CEL_SOURCE_BYTES_MAX: usize = 16 * 1024;

/// How deep an expression may be nested, macros unfolded: the machine goes into itself so often.
pub const CEL_DEPTH_MAX: usize = 200;

/// How many operators and brackets one expression may hold: the parser goes into itself for each of a chain. The longest
/// rules in the field have some 150.
pub const CEL_OPERATORS_MAX: usize = 1_000;

/// How many compiled patterns a run keeps, so that a rule over a long list compiles its pattern once.
pub const CEL_PATTERNS_MAX: usize = 16;

/// Longest text that a `messageExpression` may make, as upstream has it.
pub const CEL_MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// Bytes of one frame between the API server and a node: what a guest writes at once.
pub const CHANNEL_FRAME_BYTES_MAX: usize = 64 << 10;
