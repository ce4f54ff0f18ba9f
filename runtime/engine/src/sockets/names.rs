//! `wasi:sockets/ip-name-lookup`: names of pods and Services, as the cluster's DNS answers them.

use super::wit::ip_name_lookup::{Host, HostResolveAddressStream};
use super::wit::network::{ErrorCode, IpAddress};
use super::{Network, SocketResult, View, ip_to_wit, refused};
use crate::limits;
use futures::FutureExt;
use network::{BoxFuture, NetError};
use std::collections::VecDeque;
use std::net::IpAddr;
use wasmtime::component::Resource;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// A lookup under way, or its answers.
#[allow(unreachable_pub, reason = "generated bindings name it")]
pub enum Lookup {
    Asking(BoxFuture<'static, Result<Vec<IpAddr>, NetError>>),
    Answered(VecDeque<IpAddr>),
    Failed(NetError),
}

impl Lookup {
    fn answer(&mut self, answer: Result<Vec<IpAddr>, NetError>) {
        *self = match answer {
            Ok(addresses) => Lookup::Answered(addresses.into()),
            Err(error) => Lookup::Failed(error),
        };
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Lookup::Asking(answer) = self {
            let answer = answer.await;
            self.answer(answer);
        }
    }
}

impl Host for View<'_> {
    fn resolve_addresses(&mut self, network: Resource<Network>, name: String) -> SocketResult<Resource<Lookup>> {
        self.table.get(&network)?;
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let network = self.state.network.clone();
        let answer = Box::pin(async move { network.resolve(&name).await });
        Ok(self.table.push(Lookup::Asking(answer))?)
    }
}

impl HostResolveAddressStream for View<'_> {
    fn resolve_next_address(&mut self, lookup: Resource<Lookup>) -> SocketResult<Option<IpAddress>> {
        let lookup = self.table.get_mut(&lookup)?;
        if let Lookup::Asking(answer) = lookup {
            let answer = answer.now_or_never().ok_or(ErrorCode::WouldBlock)?;
            lookup.answer(answer);
        }
        match lookup {
            Lookup::Asking(_) => Err(ErrorCode::WouldBlock.into()),
            Lookup::Answered(addresses) => Ok(addresses.pop_front().map(ip_to_wit)),
            Lookup::Failed(error) => Err(refused(error)),
        }
    }

    fn subscribe(&mut self, lookup: Resource<Lookup>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, lookup)
    }

    fn drop(&mut self, lookup: Resource<Lookup>) -> wasmtime::Result<()> {
        self.table.delete(lookup)?;
        Ok(())
    }
}
