//! Keeps the underlay out of our own tunnels: no address behind an excluded interface is dialled, and none behind a TAP
//! is announced.

use crate::path::{self, Prefixes};
use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::watch;

/// Networks behind the interfaces of these names.
pub(super) fn prefixes_of(names: &BTreeSet<String>, list: &[if_addrs::Interface]) -> Prefixes {
    if names.is_empty() {
        return Prefixes::default();
    }
    let of = |bridges: bool| {
        let wanted = move |i: &&if_addrs::Interface| names.contains(&i.name) && is_bridge(&i.name) == bridges;
        list.iter().filter(wanted).map(|i| match &i.addr {
            if_addrs::IfAddr::V4(a) => (a.ip.into(), a.prefixlen),
            if_addrs::IfAddr::V6(a) => (a.ip.into(), a.prefixlen),
        })
    };
    Prefixes::new(of(false)).with_bridges(of(true))
}

fn is_bridge(name: &str) -> bool {
    std::path::Path::new("/sys/class/net")
        .join(name)
        .join("bridge")
        .exists()
}

/// Waits for the next change; gives the receiver back.
pub(super) type Changed<T> = BoxFuture<'static, watch::Receiver<T>>;

/// An address that the inner transport announced.
struct Known {
    listener_id: ListenerId,
    listen_addr: Multiaddr,
    shown: bool,
}

/// A transport with the filter before it.
pub(super) struct Guarded<T> {
    inner: T,
    excluded: watch::Receiver<Arc<Prefixes>>,
    changed: Changed<Arc<Prefixes>>,
    known: Vec<Known>,
}

/// The address leads into a tunnel of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0} lies behind a tunnel of this node; the underlay never runs through it")]
pub(super) struct InTunnel(Multiaddr);

impl<T> Guarded<T> {
    /// Puts the filter before `inner`.
    pub(super) fn new(inner: T, excluded: watch::Receiver<Arc<Prefixes>>) -> Self {
        Self {
            inner,
            changed: wait(excluded.clone()),
            excluded,
            known: Vec::new(),
        }
    }

    /// The next address whose visibility has to change.
    fn correct<U, E>(&mut self) -> Option<TransportEvent<U, E>> {
        let excluded = self.excluded.borrow().clone();
        let k = self
            .known
            .iter_mut()
            .find(|k| k.shown == excluded.hides_addr(&k.listen_addr))?;
        k.shown = !k.shown;
        let (listener_id, listen_addr) = (k.listener_id, k.listen_addr.clone());
        Some(if k.shown {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            }
        } else {
            TransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            }
        })
    }
}

/// See [`Changed`]; never done once nobody can change it any more.
pub(super) fn wait<T: Send + Sync + 'static>(mut rx: watch::Receiver<T>) -> Changed<T> {
    async move {
        if rx.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        rx
    }
    .boxed()
}

impl<T> Transport for Guarded<T>
where
    T: Transport<Error = std::io::Error> + Unpin,
{
    type Output = T::Output;
    type Error = std::io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<std::io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<std::io::Error>> {
        let to = path::peer_of(&addr).and_then(|p| path::node_id(&p));
        if self.excluded.borrow().towards(to).contains_addr(&addr) {
            return Err(TransportError::Other(std::io::Error::other(InTunnel(addr))));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, std::io::Error>> {
        let this = self.get_mut();
        loop {
            while let Poll::Ready(rx) = this.changed.poll_unpin(cx) {
                this.changed = wait(rx);
            }
            if let Some(event) = this.correct() {
                return Poll::Ready(event);
            }
            match Pin::new(&mut this.inner).poll(cx) {
                Poll::Ready(TransportEvent::NewAddress {
                    listener_id,
                    listen_addr,
                }) => {
                    // Not yet shown: `correct` shows it in the next turn, if it may be.
                    this.known.push(Known {
                        listener_id,
                        listen_addr,
                        shown: false,
                    });
                }
                Poll::Ready(TransportEvent::AddressExpired {
                    listener_id,
                    listen_addr,
                }) => {
                    let gone = |k: &Known| k.listener_id == listener_id && k.listen_addr == listen_addr;
                    let shown = this.known.iter().any(|k| gone(k) && k.shown);
                    this.known.retain(|k| !gone(k));
                    if shown {
                        return Poll::Ready(TransportEvent::AddressExpired {
                            listener_id,
                            listen_addr,
                        });
                    }
                }
                Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason }) => {
                    this.known.retain(|k| k.listener_id != listener_id);
                    return Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason });
                }
                other => return other,
            }
        }
    }
}
