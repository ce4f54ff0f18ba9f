//! Every bound of this crate, with its reason.

/// Longest image name: registries allow 255 bytes of path; a tag and a digest come on top.
pub const REFERENCE_BYTES_MAX: usize = 512;

/// Longest tag, as the OCI distribution specification has it.
pub const TAG_BYTES_MAX: usize = 128;

/// Largest component: a JavaScript or Python engine inside a component is 10–40 MiB; ten times that is a mistake.
pub const COMPONENT_BYTES_MAX: u64 = 512 << 20;

/// Largest manifest, config or index. Registries refuse manifests above 4 MiB.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Blobs whose digest is remembered as checked; beyond it the memory starts anew and they are hashed once more.
pub const CHECKED_BLOBS_MAX: usize = 4096;
