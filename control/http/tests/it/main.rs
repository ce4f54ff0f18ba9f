//! The API from outside: a real store in a temporary folder, the real door, requests as clients send them.

mod clients;
mod harness;
mod lists;
mod objects;
mod rights;
mod streams;
mod tls;
mod watches;
