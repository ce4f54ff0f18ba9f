//! The lives of an open member: opens its disk, starts its threads, and does so again when it has to begin anew.
//!
//! A member that finds in the midst of its work that its state is not to be believed ends that life, notes it where it is
//! found again, and begins the next under another number, while whoever holds the store goes on holding it. Requests
//! under way are told that their fate is unknown. Every other end is final.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::disk::Disk;
use crate::driver::{Clock, Driver, Ended, Envelope, checkpoint_thread, log_thread};
use crate::error::{OpenError, StoreError};
use crate::limits::{LOG_QUEUE_MAX, PEER_INPUTS_MAX};
use crate::log::Identity;
use crate::member::{Input, Member, Start};
use crate::mvcc::mix;
use crate::recovery::{self, Opened};
use crate::roster::{Roster, Stage};
use crate::state::Membership;
use crate::store::{Config, Picture};
use crate::transport::Transport;

/// What all lives of an open member share.
pub(crate) struct Home {
    pub(crate) config: Config,
    /// The membership an empty directory starts with.
    pub(crate) founders: Membership,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) runtime: Handle,
    pub(crate) clock: Clock,
    pub(crate) inbox: SyncSender<Envelope>,
    pub(crate) pictures: watch::Sender<Picture>,
}

/// One life: its threads run as long as the driver does.
pub(crate) struct Life {
    driver: Driver,
    log: JoinHandle<()>,
    checkpoint: JoinHandle<Roster>,
}

impl Home {
    /// Opens the disk and starts a life that takes its requests from `received`.
    pub(crate) fn begin(&self, received: Receiver<Envelope>) -> Result<Life, OpenError> {
        let config = &self.config;
        let identity = Identity { member: config.member_id, cluster: config.cluster_id };
        let now = self.clock.now();
        let Opened { memory, roster, healing } = recovery::open(&self.disk, identity, &self.founders, now.wall_ms)?;
        if config.transport.is_none() && (healing.is_some() || memory.state.membership.several()) {
            return Err(OpenError::Config("a member with peers needs a transport"));
        }
        let addresses = match &healing {
            Some(_) => roster.peers(),
            None => memory.state.membership.addresses.clone(),
        };
        let start = Start {
            member: roster.member,
            boot: memory.boot,
            tick_ms: u64::try_from(config.tick.as_millis()).unwrap_or(u64::MAX),
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            seed: mix(roster.member ^ now.wall_ms),
            state: memory.state,
            tail: memory.tail,
            restart_log: memory.restart_log,
            healing,
        };
        let member = Member::new(start, now, &crate::trace::logger(roster.member))
            .map_err(|error| OpenError::Io(io::Error::other(error)))?;
        let transport = match &config.transport {
            Some(transport) => {
                let peers = Arc::new(Semaphore::new(PEER_INPUTS_MAX));
                let (identity, address) = (roster.identity(), roster.address.clone());
                let inbox = self.inbox.clone();
                Some(Transport::start(transport, identity, address, addresses, inbox, peers, &self.runtime)?)
            }
            None => None,
        };
        let (log_work, log_received) = sync_channel(LOG_QUEUE_MAX);
        let (checkpoint_work, checkpoint_received) = sync_channel(LOG_QUEUE_MAX);
        let log = log_thread(memory.log, log_received, self.inbox.clone())?;
        let (disk, inbox) = (self.disk.clone(), self.inbox.clone());
        let checkpoint = checkpoint_thread(memory.checkpoint, roster, disk, checkpoint_received, inbox)?;
        // Nobody looks yet, or whoever does sees the new life.
        self.pictures.send_replace(Picture::of(&member));
        let driver = Driver {
            member,
            inbox: received,
            log: log_work,
            checkpoint: checkpoint_work,
            pictures: self.pictures.clone(),
            transport,
            clock: self.clock,
            replies: HashMap::new(),
            last_id: 0,
        };
        Ok(Life { driver, log, checkpoint })
    }

    /// Lives until the end, which the picture then tells.
    pub(crate) fn live(self, mut life: Life) {
        let reason = loop {
            match self.next(life) {
                Ok(next) => life = next,
                Err(reason) => break reason,
            }
        };
        tracing::info!(member = self.config.member_id, reason, "the store has ended");
        self.pictures.send_modify(|picture| picture.status.stopped = Some(reason));
    }

    /// Runs a life to its end; the one after it, or why there is none.
    fn next(&self, life: Life) -> Result<Life, String> {
        let Life { driver, log, checkpoint } = life;
        let ended = catch_unwind(AssertUnwindSafe(|| driver.run()));
        // The driver is gone and with it the senders of work: both threads finish what they have and end.
        drop(log.join());
        let roster = checkpoint.join();
        let (ended, received) =
            ended.map_err(|_| "it met a state that must not be; its trace tells more".to_owned())?;
        let what = match ended {
            Ended::Over(reason) => return Err(reason),
            Ended::Damaged(what) => what,
        };
        tracing::error!(
            member = self.config.member_id,
            what,
            "the state is not to be believed; the member begins anew"
        );
        let roster = roster.map_err(|_| what.clone())?;
        let roster = Roster { stage: Stage::Damaged, damage: what, ..roster };
        roster.write(self.disk.as_ref()).map_err(|error| error.to_string())?;
        if self.is_over(&received) {
            return Err("it was asked to".to_owned());
        }
        self.begin(received).map_err(|error| error.to_string())
    }

    /// Empties the inbox of what belonged to the life that ended. True if there is to be no other.
    fn is_over(&self, received: &Receiver<Envelope>) -> bool {
        let mut over = false;
        for envelope in received.try_iter() {
            match envelope {
                Envelope::Request(_, reply) => {
                    drop(reply.to.send(Err(StoreError::Busy("the member begins anew; ask again"))));
                }
                Envelope::Input(Input::StopRequested) | Envelope::End(_) => over = true,
                // That life is over anyway.
                Envelope::Damaged(_) => {}
                Envelope::Capture(_) | Envelope::Input(_) | Envelope::Peer(..) | Envelope::Introduced(..) => {}
            }
        }
        over
    }
}
