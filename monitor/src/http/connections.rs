//! The open connections, and which of them has to go when there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::activity::{Activity, Phase, Rank};
use super::group::Group;

/// How many connections each client may have before it counts as one that has more than others.
const SHARE: usize = 8;

/// How long a client that has not asked yet counts as one that is about to.
const YOUNG: Duration = Duration::from_secs(1);

/// The open connections.
#[derive(Default)]
pub(super) struct Connections {
    pub(super) tasks: JoinSet<()>,
    open: Vec<Open>,
}

struct Open {
    handle: AbortHandle,
    activity: Arc<Activity>,
    group: Group,
}

impl Connections {
    pub(super) fn add(
        &mut self,
        task: impl Future<Output = ()> + Send + 'static,
        activity: Arc<Activity>,
        group: Group,
    ) {
        self.open.push(Open {
            handle: self.tasks.spawn(task),
            activity,
            group,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Closes connections, and takes some of `new` out, until there are not more than `limit` together.
    pub(super) fn make_room<T>(&mut self, new: &mut Vec<(T, Arc<Activity>, Group)>, limit: usize) {
        if self.open.len() + new.len() > limit {
            self.open.retain(|open| !open.handle.is_finished());
        }
        let excess = (self.open.len() + new.len()).saturating_sub(limit);
        if excess == 0 {
            return;
        }
        let open = self.open.iter().map(|o| (o.group, o.activity.rank()));
        let all: Vec<_> = open
            .chain(new.iter().map(|(_, a, group)| (*group, a.rank())))
            .collect();
        let mut gone = victims(&all, excess, limit, Instant::now());
        // From the last on, so that the places of the others stay.
        gone.sort_unstable_by_key(|index| std::cmp::Reverse(*index));
        for index in gone {
            match index.checked_sub(self.open.len()) {
                Some(index) => drop(new.remove(index)),
                None => self.open.remove(index).handle.abort(),
            }
        }
    }
}

/// Which connections have to go. Each is one of the client with the most connections, as far as that are more
/// than [`SHARE`]: so nobody can take another's. Among these, one whose client has not got on for long, then
/// one whose client says nothing, then one whose client has begun to ask, then one that is kept for the
/// next request, then one that is answered; of several, the one for which that has been so for longest.
fn victims(all: &[(Group, Rank)], count: usize, limit: usize, now: Instant) -> Vec<usize> {
    // Those who are kept must not take all places, or who comes would have none before it can say anything:
    // then age alone decides.
    let kept = |rank: &Rank| rank.known || rank.phase == Phase::Answering;
    let crowded = all.iter().filter(|(_, rank)| kept(rank)).count() > limit / 2;
    let class = |rank: &Rank| match rank {
        _ if !kept(rank) && now.duration_since(rank.since) >= YOUNG => 0,
        _ if crowded => 1,
        Rank {
            phase: Phase::Answering,
            ..
        } => 4,
        Rank { known: true, .. } => 3,
        Rank { spoke: true, .. } => 2,
        Rank { spoke: false, .. } => 1,
    };
    let mut clients: HashMap<Group, Vec<_>> = HashMap::new();
    for (index, (group, rank)) in all.iter().enumerate() {
        let place = (class(rank), rank.since, index);
        clients.entry(*group).or_default().push(place);
    }
    let mut clients: Vec<Vec<_>> = clients.into_values().collect();
    for places in &mut clients {
        places.sort_unstable_by(|a, b| b.cmp(a));
    }
    let next = |clients: &mut Vec<Vec<(_, _, usize)>>| {
        let most = clients
            .iter_mut()
            .filter(|places| !places.is_empty())
            .min_by_key(|places| {
                let more = places.len().max(SHARE);
                (std::cmp::Reverse(more), places.last().copied())
            })?;
        most.pop().map(|(_, _, index)| index)
    };
    (0..count).map_while(|_| next(&mut clients)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Now, with room for what was before.
    fn now() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    fn rank(phase: Phase, known: bool, seconds_ago: u64, now: Instant) -> Rank {
        Rank {
            phase,
            since: now - Duration::from_secs(seconds_ago),
            known,
            spoke: true,
        }
    }

    fn group(last: u8) -> Group {
        Group::of([10, 0, 0, last].into())
    }

    fn one(ranks: &[(Group, Rank)], limit: usize, now: Instant) -> usize {
        victims(ranks, 1, limit, now)[0]
    }

    #[test]
    fn of_one_client_the_most_useless_goes_first() {
        let now = now();
        let silent = Rank {
            spoke: false,
            ..rank(Phase::Greeting, false, 0, now)
        };
        // From the first to go to the last.
        let order = [
            rank(Phase::Idle, false, 90, now),
            rank(Phase::Asking, false, 5, now),
            rank(Phase::Greeting, false, 4, now),
            silent,
            rank(Phase::Asking, false, 0, now),
            rank(Phase::Idle, true, 60, now),
            rank(Phase::Asking, true, 2, now),
            rank(Phase::Answering, true, 9, now),
            rank(Phase::Answering, false, 8, now),
        ];
        let ranks: Vec<_> = order.iter().map(|rank| (group(1), *rank)).collect();
        let all: Vec<_> = (0..order.len()).collect();
        assert_eq!(victims(&ranks, order.len(), 100, now), all);
        let back: Vec<_> = ranks.into_iter().rev().collect();
        let all: Vec<_> = all.into_iter().rev().collect();
        assert_eq!(victims(&back, order.len() + 1, 100, now), all);
    }

    #[test]
    fn who_has_more_than_others_loses_its_own() {
        let now = now();
        let mut ranks = vec![
            (group(1), rank(Phase::Asking, false, 9, now)),
            (group(1), rank(Phase::Idle, true, 100, now)),
        ];
        ranks.extend((0..20).map(|i| (group(2), rank(Phase::Answering, true, i, now))));
        let twelve: Vec<_> = (10..22).rev().collect();
        assert_eq!(
            victims(&ranks, 12, 22, now),
            twelve,
            "the oldest of the second"
        );
        // Up to a few it makes no difference.
        assert_eq!(victims(&ranks, 13, 22, now)[12], 0);
    }

    #[test]
    fn who_stays_does_not_take_all_places() {
        let now = now();
        let mut ranks = vec![(group(1), rank(Phase::Asking, false, 0, now))];
        ranks.extend((1..10).map(|i| (group(1), rank(Phase::Idle, true, i, now))));
        assert_eq!(one(&ranks, 10, now), 9, "not the one that has just come");
        assert_eq!(one(&ranks[..5], 10, now), 0);
    }

    #[tokio::test]
    async fn there_are_never_more_than_may_be() {
        let activity = || {
            let limits = super::super::activity::Limits::default();
            Arc::new(Activity::new(limits, Phase::Greeting))
        };
        let mut connections = Connections::default();
        for _ in 0..3 {
            connections.add(std::future::pending(), activity(), group(1));
        }
        let mut new: Vec<_> = (0..4).map(|i| (i, activity(), group(2))).collect();
        new[3].1.received();
        connections.make_room(&mut new, 2);
        assert_eq!((connections.len(), new.len()), (0, 2));
        assert_eq!(new[1].0, 3, "the one that says something stays");
        connections.make_room(&mut Vec::<((), _, _)>::new(), 0);
        assert_eq!(connections.len(), 0);
    }
}
