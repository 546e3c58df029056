//! Each fact about a workload is reported once, and stands until something new is known.

use super::*;

const NOTHING: [&str; 0] = [];

#[tokio::test]
async fn a_reload_that_is_taken_back_is_told_once_a_rotation() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.poll().await;
    let rotations = [
        ("a", 2, "web was reverted for a"),
        ("a", 3, "web was reverted for a"),
        ("b", 2, "web was reverted for a and b"),
        ("b", 3, "web was reverted for a and b"),
    ];
    for (path, number, told) in rotations {
        bench.fake.rotate(path, number);
        assert_eq!(bench.told().await, NOTHING, "{path} {number}");
        bench.put_template_back("web");
        assert_eq!(bench.told().await, [told]);
        assert_eq!(bench.told().await, NOTHING);
    }
    assert_eq!(bench.fake.world().patches, 4);
}

#[tokio::test]
async fn what_was_told_stands_while_it_cannot_be_judged() {
    let mut bench = Bench::new(&[("web", &["a"]), ("api", &["a", "b"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.fake.world().live.remove("b");
    // One workload is reloaded. The other cannot be reloaded.
    bench.fake.world().gone.insert("b".to_owned());
    assert_eq!(bench.told().await, ["api is held: SecretGone"]);
    bench.put_template_back("web");
    assert_eq!(bench.told().await, ["web was reverted for a"]);
    // An autoscaler writes both workloads, and their controllers take a moment.
    for name in ["web", "api"] {
        bench.write(name, |object| object.generation += 1);
    }
    assert_eq!(bench.told().await, NOTHING);
    for name in ["web", "api"] {
        bench.write(name, |object| object.observed_generation = object.generation);
    }
    assert_eq!(bench.told().await, NOTHING);
    // Vault does not answer.
    let live = std::mem::take(&mut bench.fake.world().live);
    assert_eq!(bench.told().await, NOTHING);
    bench.fake.world().live = live;
    assert_eq!(bench.told().await, NOTHING);
}

#[tokio::test]
async fn a_secret_that_is_never_known_silences_nothing() {
    let mut bench = Bench::new(&[("web", &["a", "b"])]);
    bench.fake.world().live.remove("b");
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.poll().await;
    bench.put_template_back("web");
    assert_eq!(bench.told().await, ["web was reverted for a"]);
    assert_eq!(bench.told().await, NOTHING);
}

#[tokio::test]
async fn who_waits_for_its_controller_is_told_once() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.fake.world().without_revisions = true;
    for poll in 1..=20 {
        let live = bench.fake.world().live.clone();
        if poll == 10 {
            // An outage does not change the report.
            bench.fake.world().live.clear();
        }
        let told = bench.told().await;
        bench.fake.world().live = live;
        let expected: &[&str] = if poll == 6 { &["web waits"] } else { &[] };
        assert_eq!(told, expected, "poll {poll}");
    }
}

#[tokio::test]
async fn what_becomes_of_a_reload_is_told_as_it_was_when_it_was_written() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    let pause = Fault::WrittenBefore(|object| object.rollout = Rollout::Paused);
    bench.fake.world().faults.push_back(pause);
    assert_eq!(bench.told().await, ["web was reloaded: Paused"]);
    assert_eq!(bench.told().await, NOTHING);
}

#[tokio::test]
async fn what_is_being_deleted_is_told_once_and_never_written() {
    let mut bench = Bench::new(&[("web", &["a"])]);
    bench.poll().await;
    bench.write("web", |object| object.deleting = true);
    bench.fake.rotate("a", 2);
    assert_eq!(bench.told().await, ["web is held: Deleting"]);
    bench.fake.rotate("a", 3);
    assert_eq!(bench.told().await, NOTHING);
    assert_eq!(bench.fake.world().patches, 0);
}

#[tokio::test]
async fn owners_are_told_what_the_answers_mean_for_their_workloads() {
    let mut bench = Bench::new(&[("web", &["a", "b"]), ("api", &["b"])]);
    let told = |bench: &Bench| -> Vec<String> {
        let next = || bench.index.findings().next();
        std::iter::from_fn(next).map(|untold| untold.workload.name.to_string()).collect()
    };
    bench.poll().await;
    assert_eq!(told(&bench), [""; 0]);
    bench.fake.delete("a");
    bench.poll().await;
    bench.poll().await;
    assert_eq!(told(&bench), ["web"]);
    bench.fake.delete("b");
    bench.poll().await;
    assert_eq!(told(&bench), ["api", "web"]);
    // The secret is back, and is deleted again.
    bench.fake.world().gone.remove("b");
    bench.fake.rotate("b", 2);
    bench.poll().await;
    assert_eq!(told(&bench), [""; 0]);
    bench.fake.delete("b");
    bench.poll().await;
    assert_eq!(told(&bench), ["api", "web"]);
    let counts: Vec<_> = bench.index.findings().counts().into_iter().collect();
    assert_eq!(counts, [("Deleted", 2)]);
    // A workload that leaves the index leaves no findings behind.
    for name in ["web", "api"] {
        bench.index.delete(&crate::model::fixtures::workload(name, &[]).id);
    }
    bench.poll().await;
    assert!(!bench.index.findings().has_of_vault());
    assert!(bench.index.findings().counts().is_empty());
}

#[tokio::test]
async fn a_workload_over_the_quota_of_its_namespace_is_not_asked_for_until_there_is_room() {
    let index = Index::default().with_quota(Quota(2));
    let mut bench = Bench::with_index(index, &[("api", &["c"]), ("web", &["a", "b"])]);
    bench.poll().await;
    assert_eq!(bench.fake.world().asked, ["c"]);
    bench.fake.rotate("a", 2);
    bench.poll().await;
    assert_eq!(bench.fake.world().patches, 0);
    let untold = bench.index.findings().next().unwrap();
    assert_eq!(&*untold.workload.name, "web");
    assert_eq!(untold.notice.reason, "TooManySecretsInNamespace");
    assert!(untold.notice.is_warning);
    assert_eq!(bench.index.findings().next(), None);
    bench.index.delete(&crate::model::fixtures::workload("api", &[]).id);
    bench.fake.world().revised = Some(between_the_versions());
    bench.poll().await;
    assert_eq!(bench.fake.world().asked, ["a", "b"]);
    assert_eq!(bench.fake.count("web"), 1);
    assert!(bench.index.findings().counts().is_empty());
}

#[tokio::test]
async fn who_strips_is_asked_for_when_all_that_is_due_is_reloaded_and_not_for_all() {
    let names: Vec<String> = (10..40).map(|number| format!("web-{number}")).collect();
    let mut workloads: Vec<_> = names.iter().map(|name| (name.as_str(), &["a"][..])).collect();
    workloads.push(("due", &["b"]));
    let mut bench = Bench::new(&workloads);
    bench.poll().await;
    bench.fake.rotate("a", 2);
    bench.poll().await;
    for name in &names {
        bench.write(name, |object| {
            object.record = None;
            object.template = 100;
            object.annotations = [(OptIn::Current.key(), "true")].into_iter().collect();
        });
    }
    bench.fake.world().revised = Some(between_the_versions());
    bench.fake.rotate("b", 2);
    let told = bench.told().await;
    assert_eq!((bench.fake.count("due"), told.len()), (1, 30));
    assert_eq!(bench.fake.world().patches_before_writers, [31; 10]);
    let by_somebody = told.iter().filter(|line| line.ends_with(" is stripped by somebody"));
    assert_eq!(by_somebody.count(), 10);
    assert_eq!(bench.told().await, NOTHING);
}
