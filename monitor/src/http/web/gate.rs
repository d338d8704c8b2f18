//! Whose password is checked next.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::http::group::Group;

/// How many passwords one client may have waiting to be checked, the one at work included.
pub(super) const WAITING: usize = 4;

/// Who waits for a password to be checked. One for all files that come after each other.
///
/// One is checked at a time: half of a small host at most, whatever comes. Clients take turns, so that one who
/// guesses without a pause costs each other client a single check.
#[derive(Debug, Default)]
pub(in crate::http) struct Gate {
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Whose password is at work.
    at_work: Option<Group>,
    /// Clients with passwords that wait, in the order of their turns; never the one at work.
    order: VecDeque<Group>,
    clients: HashMap<Group, Client>,
}

#[derive(Debug, Default)]
struct Client {
    /// Those that wait, and the one at work.
    places: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

impl Gate {
    /// Waits until it is a client's turn; none where too many of it wait already.
    pub(super) async fn turn(self: &Arc<Self>, from: Group) -> Option<Turn> {
        let (place, turn) = self.enter(from)?;
        let turn = match turn {
            Entered::Now(turn) => turn,
            Entered::Later(turn) => turn.await.ok()?,
        };
        // The turn has a place of its own from now on, also where the client hangs up.
        Some(turn.with(place))
    }

    fn enter(self: &Arc<Self>, from: Group) -> Option<(Place, Entered)> {
        let line = &mut *self.lock();
        let client = line.clients.entry(from).or_default();
        if client.places >= WAITING {
            return None;
        }
        client.places += 1;
        let place = Place {
            gate: Arc::clone(self),
            from,
        };
        if line.at_work.is_none() {
            line.at_work = Some(from);
            return Some((place, Entered::Now(Turn::new(self, from))));
        }
        let (give, get) = oneshot::channel();
        // Those who hung up.
        client.waiting.retain(|waiting| !waiting.is_closed());
        client.waiting.push_back(give);
        if line.at_work != Some(from) && !line.order.contains(&from) {
            line.order.push_back(from);
        }
        Some((place, Entered::Later(get)))
    }

    /// Gives the turn of a client to the next one, or to nobody.
    fn pass(self: &Arc<Self>, from: Group) {
        let line = &mut *self.lock();
        // Last, behind those who came meanwhile.
        let waits = |client: &Client| !client.waiting.is_empty();
        if line.clients.get(&from).is_some_and(waits) {
            line.order.push_back(from);
        }
        line.at_work = None;
        while let Some(next) = line.order.pop_front() {
            let Some(client) = line.clients.get_mut(&next) else {
                continue;
            };
            while let Some(waiting) = client.waiting.pop_front() {
                let Err(turn) = waiting.send(Turn::new(self, next)) else {
                    line.at_work = Some(next);
                    return;
                };
                // It hung up: the turn is nobody's, and must not pass itself on.
                turn.forget();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entered {
    Now(Turn),
    Later(oneshot::Receiver<Turn>),
}

/// A client's turn; on drop it is the next one's.
#[derive(Debug)]
pub(super) struct Turn {
    gate: Option<Arc<Gate>>,
    from: Group,
    place: Option<Place>,
}

impl Turn {
    fn new(gate: &Arc<Gate>, from: Group) -> Self {
        Self {
            gate: Some(Arc::clone(gate)),
            from,
            place: None,
        }
    }

    fn with(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    fn forget(mut self) {
        self.gate = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.pass(self.from);
        }
    }
}

/// A place among those who wait; given back on drop.
#[derive(Debug)]
struct Place {
    gate: Arc<Gate>,
    from: Group,
}

impl Drop for Place {
    fn drop(&mut self) {
        let line = &mut *self.gate.lock();
        let Some(client) = line.clients.get_mut(&self.from) else {
            return;
        };
        client.places -= 1;
        if client.places == 0 {
            line.clients.remove(&self.from);
            line.order.retain(|group| *group != self.from);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl Gate {
        /// How many of a client wait, the one at work included.
        pub(in crate::http::web) fn places(&self, from: Group) -> usize {
            self.lock().clients.get(&from).map_or(0, |c| c.places)
        }
    }

    pub(in crate::http::web) fn from(last: u8) -> Group {
        Group::of([10, 0, 0, last].into())
    }

    /// Tasks that write down whose turn it is, and give it on.
    struct Log(Arc<Gate>, Arc<Mutex<Vec<u8>>>, tokio::task::JoinSet<()>);

    impl Log {
        /// Waits until it is in the line, so that the order is known.
        async fn enter(&mut self, last: u8) {
            let before = self.0.places(from(last));
            let (gate, log) = (Arc::clone(&self.0), Arc::clone(&self.1));
            self.2.spawn(async move {
                let turn = gate.turn(from(last)).await.unwrap();
                log.lock().unwrap().push(last);
                drop(turn);
            });
            while self.0.places(from(last)) == before {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn clients_take_turns() {
        let gate = Arc::new(Gate::default());
        let mut log = Log(
            Arc::clone(&gate),
            Arc::default(),
            tokio::task::JoinSet::new(),
        );
        let at_work = gate.turn(from(1)).await.unwrap();
        for last in [1, 1, 1, 2, 2, 3] {
            log.enter(last).await;
        }
        assert!(gate.turn(from(1)).await.is_none(), "a fifth one waits");
        // One that hangs up is no turn of its client's.
        let gone = tokio::time::timeout(std::time::Duration::ZERO, gate.turn(from(4)));
        assert!(gone.await.is_err());
        assert_eq!(gate.places(from(4)), 0);
        drop(at_work);
        while log.2.join_next().await.transpose().unwrap().is_some() {}
        assert_eq!(*log.1.lock().unwrap(), [2, 3, 1, 2, 1, 1]);
        let line = gate.lock();
        assert!(line.at_work.is_none() && line.clients.is_empty() && line.order.is_empty());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_the_next_one_s() {
        let gate = Arc::new(Gate::default());
        let at_work = gate.turn(from(1)).await.unwrap();
        let mut gone = Box::pin(gate.turn(from(1)));
        let mut next = Box::pin(gate.turn(from(2)));
        let mut last = Box::pin(gate.turn(from(2)));
        // In the line, each of them.
        for waiting in [&mut gone, &mut next, &mut last] {
            let polled = std::future::poll_fn(|context| {
                std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
            });
            assert!(polled.await, "it does not wait");
        }
        drop(gone);
        drop(at_work);
        // It has the turn, and hangs up before it knows.
        drop(next);
        let turn = last.await.unwrap();
        assert_eq!(gate.places(from(1)), 0);
        drop(turn);
        assert!(gate.lock().at_work.is_none());
    }
}
