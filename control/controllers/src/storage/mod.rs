//! Claims and volumes: who is bound to whom, who is made, and who may go.
//!
//! `claim` binds and provisions, `volume` says what became of a volume and reclaims it; the protections let deleted
//! ones go once nobody needs them. The rules of who serves whom are in `api::volumes`, where the scheduler finds them.

pub(crate) mod claim;
pub(crate) mod claim_protection;
mod provision;
pub(crate) mod volume;
pub(crate) mod volume_protection;

pub(crate) use api::volumes::{CLAIMS, CLASSES, VOLUMES};
