//! Tests the steps of one contender, and of several contenders for one lease.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const TERMS: Terms = Terms {
    duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

fn contender(identity: &str) -> Contender {
    Contender::new(identity, TERMS, Duration::ZERO)
}

fn held_by(holder: &str) -> Record {
    Record {
        holder: holder.into(),
        duration: Some(15),
        acquired: Some("2026-11-24T12:00:00.000000Z".into()),
        renewed: Some("2026-11-24T12:00:00.000000Z".into()),
        transitions: 4,
    }
}

fn renewed_at(mut record: Record, second: i64) -> Record {
    record.renewed = Some(format!("renewed at {second}").into());
    record
}

fn noon() -> Timestamp {
    "2026-11-24T12:00:00.123456789Z".parse().unwrap()
}

#[test]
fn it_looks_first_and_again_after_a_while() {
    let start = Instant::now();
    let mut a = contender("a");
    assert_eq!(a.step(start, false), Step::Look);
    a.looks(start);
    assert_eq!(a.step(start, false), Step::Wait(start + 2 * SECOND));
    assert_eq!(a.step(start + 2 * SECOND, false), Step::Look);
}

#[test]
fn where_there_is_no_lease_it_makes_one_and_renews_it() {
    let start = Instant::now();
    let mut a = contender("a");
    a.saw_none(None, start);
    assert_eq!(a.step(start, true), Step::Create);
    assert_eq!(a.leads_until(start), None);
    let record = a.claim(noon());
    let time = Some("2026-11-24T12:00:00.123456Z".into());
    let wanted = Record {
        holder: "a".into(),
        duration: Some(15),
        acquired: time.clone(),
        renewed: time.clone(),
        transitions: 0,
    };
    assert_eq!(record, wanted);

    // The answer takes a second. The claim counts from before.
    a.writes(start);
    a.has_written("1", record, start, start + SECOND);
    assert_eq!(a.leads_until(start + SECOND), Some(start + 10 * SECOND));
    assert_eq!(a.step(start + SECOND, true), Step::Wait(start + 2 * SECOND));
    assert_eq!(a.step(start + 2 * SECOND, true), Step::Renew);
    let later = noon() + jiff::SignedDuration::from_secs(2);
    let again = a.claim(later);
    assert_eq!((&again.acquired, again.transitions), (&time, 0));
    assert_ne!(again.renewed, time);
    a.writes(start + 2 * SECOND);
    a.has_written("2", again, start + 2 * SECOND, start + 2 * SECOND);
    assert_eq!(a.leads_until(start + 2 * SECOND), Some(start + 12 * SECOND));
}

#[test]
fn a_claim_ends_by_itself_and_comes_back_with_the_next_answer() {
    let start = Instant::now();
    let mut a = contender("a");
    a.saw_none(None, start);
    a.has_written("1", a.claim(noon()), start, start);
    // No request is answered any more. The contender tries again once per retry period.
    for second in [2, 4, 6, 8] {
        let now = start + second * SECOND;
        assert_eq!(a.step(now, false), Step::Renew);
        a.writes(now);
        assert!(a.leads_until(now).is_some());
        assert_eq!(a.step(now, false), Step::Wait(now + 2 * SECOND));
    }
    let end = start + 10 * SECOND;
    assert_eq!(a.leads_until(end), None);
    assert!(a.holds() && a.other_holder().is_none());
    assert_eq!(a.step(end, false), Step::Renew);
    a.has_written("2", a.claim(noon()), end, end);
    assert_eq!(a.leads_until(end), Some(end + 10 * SECOND));
}

#[test]
fn the_lease_of_another_is_measured_from_when_it_was_seen_to_change() {
    let start = Instant::now();
    let mut a = contender("a");
    // The times in the lease do not matter.
    for renewed in ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "", "yesterday"] {
        let record = Record { renewed: Some(renewed.into()), ..held_by("b") };
        a.saw("7", record.clone(), start);
        // The content is seen again and again, also when other fields of the object change.
        for second in 1..15 {
            a.saw(&(7 + second).to_string(), record.clone(), start + second * SECOND);
            assert_ne!(a.step(start + second * SECOND, true), Step::Take);
        }
        a.saw("30", record, start + 15 * SECOND);
        assert_eq!(a.step(start + 15 * SECOND, true), Step::Take);
        a.known = None;
    }
    assert_eq!(a.other_holder(), None);
}

#[test]
fn an_ended_lease_is_looked_at_once_more_and_then_taken() {
    let start = Instant::now();
    let mut a = contender("a");
    a.saw("7", held_by("b"), start);
    assert_eq!(a.other_holder(), Some("b"));
    let end = start + 15 * SECOND;
    assert_eq!(a.step(end, true), Step::Look);
    // The lease was renewed, and the watch has missed that.
    a.looks(end);
    a.saw("8", renewed_at(held_by("b"), 14), end);
    assert!(matches!(a.step(end, true), Step::Wait(_)));
    let end = end + 15 * SECOND;
    assert_eq!(a.step(end, true), Step::Look);
    a.looks(end);
    // No answer: the next attempt is in a while.
    assert_eq!(a.step(end + SECOND, true), Step::Wait(end + 2 * SECOND));
    a.saw("8", renewed_at(held_by("b"), 14), end + SECOND);
    assert_eq!(a.step(end + SECOND, true), Step::Take);
    let record = a.claim(noon());
    assert_eq!((&*record.holder, record.transitions), ("a", 5));
    assert_eq!(record.acquired, record.renewed);
    // Another replica was faster.
    a.writes(end + SECOND);
    a.met_conflict();
    assert_eq!(a.step(end + SECOND, true), Step::Wait(end + 2 * SECOND));
    a.saw("9", held_by("c"), end + SECOND);
    assert!(matches!(a.step(end + SECOND, true), Step::Wait(_)));
    assert_eq!(a.leads_until(end + SECOND), None);
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let start = Instant::now();
    let mut b = contender("b");
    b.saw("7", held_by("b"), start);
    let released = b.release(noon());
    assert_eq!((&*released.holder, released.duration, released.transitions), ("", Some(1), 4));
    let mut a = Contender::new("a", TERMS, Duration::from_millis(70));
    a.saw("7", held_by("b"), start);
    a.saw("8", released, start + SECOND);
    assert_eq!(a.other_holder(), None);
    let free = start + SECOND + Duration::from_millis(70);
    assert_eq!(a.step(start + SECOND, true), Step::Wait(free));
    assert_eq!(a.step(free, true), Step::Take);
    assert_eq!(a.claim(noon()).transitions, 5);
}

#[test]
fn where_no_watch_tells_it_looks_each_retry_period() {
    let start = Instant::now();
    let mut a = contender("a");
    a.looks(start);
    a.saw("7", held_by("b"), start);
    assert_eq!(a.step(start, false), Step::Wait(start + 2 * SECOND));
    assert_eq!(a.step(start + 2 * SECOND, false), Step::Look);
    // A working watch shows an event once per retry period. If it is silent, the lease is read.
    assert_eq!(a.step(start + 2 * SECOND, true), Step::Wait(start + 4 * SECOND));
    assert_eq!(a.step(start + 4 * SECOND, true), Step::Look);
    a.looks(start + 4 * SECOND);
    assert_eq!(a.step(start + 5 * SECOND, true), Step::Wait(start + 6 * SECOND));
}

#[test]
fn odd_leases_stop_nobody_for_long() {
    let start = Instant::now();
    let table = [
        (Record::default(), 0),
        (Record { duration: Some(i64::MAX), ..Record::default() }, 0),
        (Record { duration: None, ..held_by("b") }, 15),
        (Record { duration: Some(0), ..held_by("b") }, 15),
        (Record { duration: Some(i64::MIN), ..held_by("b") }, 15),
        (Record { duration: Some(1), ..held_by("b") }, 1),
        (Record { duration: Some(40), ..held_by("b") }, 40),
        (Record { duration: Some(i64::from(i32::MAX)), ..held_by("b") }, 60),
        (Record { duration: Some(i64::MAX), ..held_by("b") }, 60),
        (Record { holder: " ".into(), ..held_by("b") }, 15),
    ];
    for (record, seconds) in table {
        let mut a = contender("a");
        a.saw("7", record.clone(), start);
        let free = start + seconds * SECOND;
        if seconds > 0 {
            let before = start + (seconds * SECOND).mul_f64(0.9);
            assert_ne!(a.step(before, true), Step::Take, "{record:?}");
        }
        a.saw("7", record.clone(), free);
        assert_eq!(a.step(free, true), Step::Take, "{record:?}");
    }
    for (before, after) in [
        (i64::MIN, 0),
        (-1, 0),
        (0, 1),
        (i64::from(i32::MAX), i64::from(i32::MAX)),
        (i64::MAX, i64::from(i32::MAX)),
    ] {
        let mut a = contender("a");
        a.saw("7", Record { transitions: before, ..held_by("") }, start);
        assert_eq!(a.claim(noon()).transitions, after);
    }
}

#[test]
fn what_a_watch_tells_late_is_no_news() {
    let start = Instant::now();
    let mut a = contender("a");
    a.saw("9", held_by(""), start);
    a.has_written("10", a.claim(noon()), start, start);
    assert!(!a.saw("9", held_by("b"), start), "as it was before");
    assert!(!a.saw_none(Some("8"), start));
    assert!(a.leads_until(start).is_some() && a.holds());
    assert!(a.saw("10", a.claim(noon()), start), "its own");
    // Somebody edited the lease: the contender stops at once, and does not take the lease back
    // early.
    assert!(a.saw("11", held_by("b"), start));
    assert_eq!((a.leads_until(start), a.other_holder()), (None, Some("b")));
    assert!(matches!(a.step(start + SECOND, true), Step::Wait(_)));
    // Numbers are compared as numbers. Other texts are not compared.
    assert!(a.saw("100", held_by("c"), start));
    assert!(a.saw("odd", held_by("d"), start));
    assert!(a.saw("1", held_by("e"), start));
}

#[test]
fn a_deleted_lease_is_made_anew_by_who_leads() {
    let start = Instant::now();
    let mut a = contender("a");
    a.saw_none(None, start);
    a.writes(start);
    a.has_written("1", a.claim(noon()), start, start);
    assert!(a.saw_none(Some("2"), start + SECOND));
    assert!(a.leads_until(start + SECOND).is_some(), "it is nobody else's yet");
    assert_eq!(a.step(start + SECOND, true), Step::Wait(start + 2 * SECOND));
    assert_eq!(a.step(start + 2 * SECOND, true), Step::Create);
}

/// The one lease, as an API server keeps it.
#[derive(Default)]
struct Server {
    version: u64,
    lease: Option<Record>,
    writes: Vec<(Instant, Box<str>)>,
}

impl Server {
    fn put(&mut self, seen: Option<&str>, record: Record, now: Instant) -> Option<String> {
        let current = self.lease.as_ref().map(|_| self.version.to_string());
        if current.as_deref() != seen {
            return None;
        }
        self.writes.push((now, record.holder.clone()));
        self.version += 1;
        self.lease = Some(record);
        Some(self.version.to_string())
    }
}

/// Random histories of three replicas. Their requests and answers are lost or late, their watches
/// miss events, and a replica is frozen at times. At no time do two replicas claim to lead. After a
/// calm while, one leads.
#[test]
fn at_no_time_do_two_claim_to_lead() {
    let mut random = 7_u64;
    let mut draw = |below: u64| {
        // An xorshift, since the module has no randomness and its tests must be repeatable.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let start = Instant::now();
    let tick = Duration::from_millis(100);
    let mut changes = 0;
    for _ in 0..100 {
        let mut server = Server::default();
        let names = ["a", "b", "c"];
        let mut all: Vec<Contender> = names
            .iter()
            .zip([0, 30, 60])
            .map(|(name, wait)| Contender::new(name, TERMS, Duration::from_millis(wait)))
            .collect();
        let mut frozen_until = [start; 3];
        let mut last = None;
        for number in 0..3000_u32 {
            let now = start + tick * number;
            let is_calm = number % 1000 > 600;
            for (index, one) in all.iter_mut().enumerate() {
                if frozen_until[index] > now {
                    continue;
                }
                if !is_calm && draw(300) == 0 {
                    frozen_until[index] = now + SECOND * u32::try_from(draw(30)).unwrap();
                }
                let is_deaf = !is_calm && draw(3) == 0;
                if !is_deaf && let Some(record) = &server.lease {
                    one.saw(&server.version.to_string(), record.clone(), now);
                }
                let is_lost = !is_calm && draw(2) == 0;
                match one.step(now, !is_deaf) {
                    Step::Wait(time) => assert!(time > now),
                    Step::Look => {
                        one.looks(now);
                        match &server.lease {
                            _ if is_lost => {}
                            Some(record) => {
                                one.saw(&server.version.to_string(), record.clone(), now);
                            }
                            None => {
                                one.saw_none(None, now);
                            }
                        }
                    }
                    Step::Create | Step::Take | Step::Renew => {
                        one.writes(now);
                        let seen = one.known.as_ref().and_then(|known| known.lease.as_ref());
                        let seen = seen.map(|(version, _)| version.to_string());
                        let record =
                            one.claim(noon() + jiff::SignedDuration::from_secs(number.into()));
                        // The request is lost, or its answer is lost, or the answer is late.
                        if is_lost && draw(2) == 0 {
                            continue;
                        }
                        let answer = server.put(seen.as_deref(), record.clone(), now);
                        match answer {
                            _ if is_lost => {}
                            Some(version) => {
                                let late = if is_calm { 0 } else { draw(90) };
                                let late = tick * u32::try_from(late).unwrap();
                                one.has_written(&version, record, now, now + late);
                                frozen_until[index] = frozen_until[index].max(now + late);
                            }
                            None => one.met_conflict(),
                        }
                    }
                }
            }
            let leading: Vec<_> =
                (0..3).filter(|index| all[*index].leads_until(now).is_some()).collect();
            assert!(leading.len() <= 1, "{leading:?} at {number}");
            if number % 1000 == 999 {
                assert_eq!(leading.len(), 1, "after a calm of 40 s, at {number}");
            }
            if let Some(leader) = leading.first()
                && last != Some(*leader)
            {
                changes += 1;
                last = Some(*leader);
            }
        }
        for name in names {
            let own: Vec<Instant> =
                server.writes.iter().filter(|(_, by)| **by == *name).map(|(at, _)| *at).collect();
            let closest = own.windows(2).map(|pair| pair[1] - pair[0]).min();
            assert!(closest.is_none_or(|gap| gap >= TERMS.retry_period), "{closest:?}");
        }
    }
    assert!(changes > 150, "{changes} times another one led: too few to prove anything");
}
