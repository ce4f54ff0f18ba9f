//! Every bound of this crate, with its reason.

use std::time::Duration;

/// Longest image name: registries allow 255 bytes of path; a tag and a digest come on top.
pub const REFERENCE_BYTES_MAX: usize = 512;

/// Longest tag, as the OCI distribution specification has it.
pub const TAG_BYTES_MAX: usize = 128;

/// Largest component: a JavaScript or Python engine inside a component is 10–40 MiB; ten times that is a mistake.
pub const COMPONENT_BYTES_MAX: u64 = 512 << 20;

/// Largest manifest, config or index. Registries refuse manifests above 4 MiB.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// What may come out of the packed layers of one image while its component is looked for: the component and as much
/// again around it. A small file that unpacks to more is an attack.
pub const UNPACKED_BYTES_MAX: u64 = 2 * COMPONENT_BYTES_MAX;

/// Layers of an image that are looked into; images with one program have one or two, registries allow 127.
pub const LAYERS_MAX: usize = 127;

/// Blobs whose digest is remembered as checked; beyond it the memory starts anew and they are hashed once more.
pub const CHECKED_BLOBS_MAX: usize = 4096;

/// Blobs that no name leads to are left for this long: a push or a pull brings its blobs first and the name last.
pub const UNNAMED_AGE_MIN: Duration = Duration::from_secs(3600);

/// Half-written files of a process that was killed are left for this long; no transfer takes a tenth of it.
pub const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Registry credentials of one pod: a Secret holds 1 MiB, a person a handful.
pub const CREDENTIALS_MAX: usize = 256;

/// Pieces of a transfer between network and disk, some 16 KiB each: enough that neither waits for every single one.
pub const PIECES_QUEUED_MAX: usize = 16;

/// How long a registry may take to accept a connection. People wait for the event that says it did not.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a registry may be silent in the middle of an answer.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one pull or push may take as a whole: the largest component over a slow line (1 MiB/s), and some more.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Answers of a registry that are not blobs: errors and tokens. Tokens of the large registries are some 5 KiB.
pub const ANSWER_BYTES_MAX: u64 = 256 << 10;

/// Credentials tried for one pull; each costs the registry a few requests.
pub const TRIES_MAX: usize = 8;

/// Uploads that may be open at our registry at once; a tool pushes a handful of blobs in parallel.
pub const UPLOADS_MAX: usize = 64;

/// An upload nobody has touched for this long is forgotten with what it brought.
pub const UPLOAD_IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Names in one page of a catalogue or tag list when the client does not ask for fewer.
pub const PAGE_MAX: usize = 1000;
