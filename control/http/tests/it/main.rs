//! The API from outside: a real store in a temporary folder, the real door, requests as clients send them.

mod harness;
mod lists;
mod objects;
mod rights;
mod watches;
