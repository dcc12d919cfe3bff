//! The orders of the host half: connections are dealt out to the relays, sockets for datagrams go to their carrier.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use u7s_sys::channel;

use super::datagrams::Carrier;
use super::relay::Relay;
use super::team::{Dealt, Team};
use crate::Error;
use crate::forward::listen::abort;
use crate::forward::message::{Order, Report};

/// Packets that are taken before connections have their turn.
const BATCH: usize = 256;

/// Reads the channel; the first relay has it.
#[derive(Debug)]
pub(super) struct Door {
    team: Arc<Team>,
    /// Who carries datagrams, if that is possible.
    carrier: Option<Arc<Carrier>>,
    /// Dropped sockets that the host half has not been told yet.
    dropped: u32,
}

impl Door {
    pub(super) fn new(team: Arc<Team>, carrier: Option<Arc<Carrier>>) -> Self {
        Self { team, carrier, dropped: 0 }
    }

    /// Takes what has come by the channel; `relay` is the one that was asked.
    ///
    /// # Errors
    /// [`Error::Channel`], [`Error::Message`]: the host half cannot be understood.
    pub(super) fn welcome(&mut self, relay: &mut Relay) -> Result<(), Error> {
        let mut packet = [0; Order::BYTES * Order::MOST];
        for _ in 0..BATCH {
            let (bytes, descriptors) = match channel::receive(self.team.channel.as_fd(), &mut packet) {
                Ok((0, _)) => return self.part(relay),
                Ok(received) => received,
                Err(error) => match error.errno() {
                    // ECONNRESET comes once, when the other end did not read our last word; its packets are still there.
                    Some(Errno::EAGAIN | Errno::ECONNRESET) => return Ok(()),
                    _ => return Err(Error::Channel { source: error }),
                },
            };
            let mut descriptors = descriptors.into_iter();
            for order in Order::decode_all(&packet[..bytes])? {
                self.obey(order, &mut descriptors, relay);
            }
            if bytes < packet.len() {
                // The host half had no more; if it has by now, epoll says so.
                return Ok(());
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order, descriptors: &mut impl Iterator<Item = OwnedFd>, relay: &mut Relay) {
        let brings_one = matches!(order, Order::Connect(_) | Order::Carry(_));
        let descriptor = if brings_one { descriptors.next() } else { None };
        match (order, descriptor) {
            (Order::Connect(opening), Some(client)) => match self.team.deal(opening, client.into()) {
                Dealt::Mine(opening, client) => relay.begin(opening, client),
                Dealt::Given => {}
                Dealt::Refused(holder, client) => {
                    abort(&client);
                    relay.never_was(holder);
                }
            },
            // It was closed on its way, because there was no room for it: these clients are lost, not all of them.
            (Order::Connect(opening), None) => {
                self.team.say(Errno::ENFILE);
                self.team.lost();
                relay.never_was((&opening).into());
            }
            (Order::Carry(bound), Some(socket)) => {
                let carried = self.carrier.as_ref().map(|carrier| carrier.carry(bound, socket));
                if let Some(Err(error)) = carried {
                    self.team.say(error);
                }
            }
            (Order::Carry(_), None) => self.team.say(Errno::ENFILE),
            (Order::Drop(bound), _) => {
                self.carrier.iter().for_each(|carrier| carrier.release(bound));
                self.dropped += 1;
            }
            (Order::Refuse(network), _) => self.carrier.iter().for_each(|carrier| carrier.refuse(network)),
            (Order::MakeRoom(count), _) => self.team.make_room(count),
        }
    }

    /// The host half is gone: what is open goes on, nothing new comes.
    fn part(&mut self, relay: &Relay) -> Result<(), Error> {
        self.team.part();
        self.carrier.iter().for_each(|carrier| carrier.release_all());
        relay.leave_channel()
    }

    /// Sockets were dropped, and the host half could not be told.
    pub(super) fn owes(&self) -> bool {
        self.dropped > 0
    }

    /// Tells the host half what was dropped; what cannot be told now is told later.
    ///
    /// # Errors
    /// [`Error::Channel`].
    pub(super) fn report(&mut self) -> Result<(), Error> {
        while self.dropped > 0 && self.team.tell(Report::Dropped)? {
            self.dropped -= 1;
        }
        Ok(())
    }
}
