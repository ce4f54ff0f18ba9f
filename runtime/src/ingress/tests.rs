//! The Ingress server in front of fake pods, spoken to by a real HTTP client over real sockets.
