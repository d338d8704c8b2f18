//! The open connections, and which of them has to go when there are too many.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
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

/// From how many answers on, one a second, a client is so far ahead that everybody else's come first.
const GREEDY: Duration = Duration::from_secs(10);

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

    /// Closes connections, and takes some of `new` out, until there are not more than `limit` together, and a
    /// quarter of that as long as they wait for their first answer.
    pub(super) fn make_room<T>(&mut self, new: &mut Vec<(T, Arc<Activity>, Group)>, limit: usize) {
        if self.open.len() + new.len() > limit {
            self.open.retain(|open| !open.handle.is_finished());
        }
        if self.open.len() + new.len() <= limit {
            return;
        }
        let open = self.open.iter().map(|o| (o.group, o.activity.rank()));
        let all: Vec<_> = open
            .chain(new.iter().map(|(_, a, group)| (*group, a.rank())))
            .collect();
        let now = Instant::now();
        let waits = |rank: &Rank| rank.sated.is_none() && rank.spoke && !is_stuck(rank, now);
        let more = match new.len() {
            // Files are short: there is no room for more.
            0 => 0,
            _ => all.iter().filter(|(_, rank)| waits(rank)).count(),
        };
        let excess = all.len().saturating_sub(limit + more.min(limit / 4));
        let mut gone = victims(&all, excess, limit, now);
        // From the last on, so that the places of the others stay.
        gone.sort_unstable_by_key(|index| Reverse(*index));
        for index in gone {
            match index.checked_sub(self.open.len()) {
                Some(index) => drop(new.remove(index)),
                None => self.open.remove(index).handle.abort(),
            }
        }
    }
}

/// Whether a place is lost with it: those who are kept, or wait for us.
fn is_kept(rank: &Rank) -> bool {
    rank.known || rank.phase == Phase::Answering
}

/// Whether its client has not got on for long.
fn is_stuck(rank: &Rank, now: Instant) -> bool {
    !is_kept(rank) && now.duration_since(rank.since) >= YOUNG
}

/// Which connections have to go. Each is one of the client with the most connections, as far as that are more
/// than [`SHARE`]: so nobody can take another's. Among these, one whose client has not got on for long, then
/// one whose client is far ahead with answers, then one whose client has begun to ask, then one whose client has
/// said nothing yet, then one that is kept for the next request, then one that is answered, last for the first
/// time; of several, the one that is furthest ahead, then the one for which that has been so for longest. Where those
/// who said nothing are over half, they go before those who have begun to ask. Of those who wait for their first
/// answer any one goes: neither who has waited longest, nor who comes just then, is lost for sure.
fn victims(all: &[(Group, Rank)], count: usize, limit: usize, now: Instant) -> Vec<usize> {
    // Those who are kept must not take all places, or who comes would have none before it can say anything:
    // then it is their turn to go.
    let crowded = all.iter().filter(|(_, rank)| is_kept(rank)).count() > limit / 2;
    // Who comes has no place without a moment in which it says nothing; but others must not fill all with that.
    let silent = |rank: &Rank| !rank.spoke;
    let hushed = all.iter().filter(|(_, rank)| silent(rank)).count() > limit / 2;
    let dice = RandomState::new();
    let mut clients: HashMap<Group, Vec<_>> = HashMap::new();
    for (index, (group, rank)) in all.iter().enumerate() {
        let ahead = rank
            .sated
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let class = match rank {
            _ if is_stuck(rank, now) => 0,
            _ if ahead >= GREEDY => 1,
            Rank { sated: Some(_), .. } if crowded => 2,
            _ if crowded => 3,
            Rank {
                phase: Phase::Answering,
                sated,
                ..
            } => 5 + u8::from(sated.is_none()),
            Rank { known: true, .. } => 4,
            rank => 2 + u8::from(silent(rank) != hushed),
        };
        let by_luck = class > 0 && rank.sated.is_none() && (crowded || is_kept(rank));
        let luck = if by_luck { dice.hash_one(index) } else { 0 };
        let place = (class, Reverse(ahead.as_secs()), luck, rank.since, index);
        clients.entry(*group).or_default().push(place);
    }
    let mut clients: Vec<Vec<_>> = clients.into_values().collect();
    for places in &mut clients {
        places.sort_unstable_by(|a, b| b.cmp(a));
    }
    let next = |clients: &mut Vec<Vec<(_, _, _, _, usize)>>| {
        let most = clients
            .iter_mut()
            .filter(|places| !places.is_empty())
            .min_by_key(|places| {
                let more = places.len().max(SHARE);
                (Reverse(more), places.last().copied())
            })?;
        most.pop().map(|(_, _, _, _, index)| index)
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
            sated: known.then_some(now - Duration::from_secs(seconds_ago)),
        }
    }

    /// One that has just had an answer, and so many before it that they would do for this long.
    fn ahead(rank: Rank, seconds: u64, now: Instant) -> Rank {
        Rank {
            since: now,
            known: true,
            sated: Some(now + Duration::from_secs(seconds)),
            ..rank
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
            rank(Phase::Asking, false, 0, now),
            silent,
            rank(Phase::Idle, true, 60, now),
            rank(Phase::Asking, true, 2, now),
            rank(Phase::Answering, true, 9, now),
            rank(Phase::Answering, true, 8, now),
            rank(Phase::Answering, false, 20, now),
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

    #[test]
    fn who_says_nothing_yet_has_a_place_until_others_do_the_same() {
        let now = now();
        let asking = |_| (group(1), rank(Phase::Asking, false, 0, now));
        let silent = Rank {
            spoke: false,
            ..rank(Phase::Greeting, false, 0, now)
        };
        let mut ranks: Vec<_> = (0..10).map(asking).collect();
        ranks.push((group(1), silent));
        assert_eq!(one(&ranks, 10, now), 0, "not the one that has just come");
        ranks.extend([(group(1), silent); 5]);
        assert_eq!(one(&ranks, 15, now), 0, "6 of 15 are not half");
        assert_eq!(one(&ranks, 11, now), 10, "6 of 11 are");
    }

    #[test]
    fn who_asks_without_a_pause_goes_before_who_waits_for_its_first_answer() {
        let now = now();
        let first = rank(Phase::Answering, false, 3, now);
        let kept = rank(Phase::Idle, true, 60, now);
        for (limit, crowd) in [(10, "crowded"), (100, "not crowded")] {
            for phase in [Phase::Answering, Phase::Asking, Phase::Sending, Phase::Idle] {
                let busy = |seconds| (group(1), ahead(rank(phase, true, 0, now), seconds, now));
                let mut ranks = vec![(group(1), first), (group(1), kept)];
                ranks.extend((9..16).map(busy));
                let gone = victims(&ranks, 9, limit, now);
                let greedy = [8, 7, 6, 5, 4, 3];
                assert_eq!(gone[..6], greedy, "{crowd}, {phase:?}: the busiest first");
                assert_eq!(gone[8], 0, "{crowd}, {phase:?}");
            }
        }
        // Nor one that is nearly as new, but had its turn.
        let once = ahead(rank(Phase::Answering, true, 0, now), 0, now);
        for limit in [1, 100] {
            assert_eq!(one(&[(group(1), first), (group(1), once)], limit, now), 1);
        }
    }

    #[test]
    fn each_answer_counts_for_a_second_also_one_for_nobody_known() {
        let limits = super::super::activity::Limits::default();
        let activity = Activity::new(limits, Phase::Asking);
        assert_eq!(activity.rank().sated, None);
        activity.answered(false);
        let first = activity.rank().sated.unwrap();
        for more in (1..20).map(Duration::from_secs) {
            activity.answered(false);
            let sated = activity.rank().sated.unwrap();
            assert!(sated >= first + more, "{more:?}");
            let all = more + Duration::from_secs(1);
            assert!(sated <= Instant::now() + all, "{more:?}");
        }
    }

    #[test]
    fn who_waits_for_its_first_answer_among_many_is_seldom_the_one() {
        let now = now();
        // The oldest and the newest of a hundred, of whom two have to go.
        let ranks: Vec<_> = (0..100)
            .map(|age| (group(1), rank(Phase::Answering, false, age, now)))
            .collect();
        for which in [0, 99] {
            let lost = (0..200).filter(|_| victims(&ranks, 2, 98, now).contains(&which));
            let lost = lost.count();
            // 4 on average; 30 is beyond any doubt.
            assert!(lost < 30, "{which}: {lost} of 200");
        }
    }

    #[tokio::test]
    async fn a_few_more_have_a_place_until_their_first_answer() {
        let activity = || {
            let limits = super::super::activity::Limits::default();
            Arc::new(Activity::new(limits, Phase::Greeting))
        };
        let mut connections = Connections::default();
        let all: Vec<_> = std::iter::repeat_with(activity).take(12).collect();
        for activity in &all {
            activity.received();
            activity.set(Phase::Answering);
            connections.add(std::future::pending(), Arc::clone(activity), group(1));
        }
        connections.make_room(&mut vec![((), activity(), group(2))], 8);
        assert_eq!(connections.len(), 9, "8 and 2 more, one of which is new");
        for activity in &all {
            activity.answered(true);
        }
        connections.make_room(&mut vec![((), activity(), group(2))], 8);
        assert_eq!(connections.len(), 7);
        connections.make_room(&mut Vec::<((), _, _)>::new(), 6);
        assert_eq!(connections.len(), 6);
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
