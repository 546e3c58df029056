//! How fast values are read, beside a bare search for `vault:` over the same bytes, in the same run.
#![expect(clippy::print_stdout, reason = "it is run for what it prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use e2e::Table;
use memchr::memmem::Finder;
use vault_secrets_reloader::references::extraction::read_value;
use vault_secrets_reloader::references::grammar::may_hold_reference;

/// Bytes of values that are read in each round.
const BYTES: usize = 8 << 20;
/// The long one of two inputs of one kind: what is linear reads both as fast.
const LONGER: usize = 16;
/// How often each is measured, in turn with the search; the median counts.
const ROUNDS: usize = 7;

/// Values as manifests hold them, none with a reference.
const PLAIN: [&str; 8] = [
    "true",
    "8080",
    "info",
    "https://api.shop.svc.cluster.local:8443/v1/orders?page=1",
    "postgres-primary.databases.svc.cluster.local:5432",
    "-Xms512m -Xmx2g -XX:+UseG1GC -Dfile.encoding=UTF-8",
    r#"{"level":"info","format":"json","outputs":["stdout","stderr"]}"#,
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
];

const REFERENCES: [&str; 6] = [
    "vault:secret/data/shop/mysql#MYSQL_PASSWORD",
    "vault:secret/data/shop/redis#${.host}:${.port}",
    "postgres://${vault:secret/data/db#user}:${vault:secret/data/db#password}@db:5432/shop",
    "bao:secret/data/shop/api#KEY#3",
    ">>vault:pki/issue/shop#certificate#{\"common_name\":\"shop\"}",
    "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zo",
];

fn main() {
    let mut table =
        Table::new(&["values", "bytes each", "references", "search MB/s", "ours MB/s", "x time"]);
    let filled = |values: &[&str]| -> Vec<String> {
        let bytes: usize = values.iter().map(|value| value.len()).sum();
        values
            .iter()
            .map(|value| (*value).to_owned())
            .cycle()
            .take(BYTES / bytes * values.len())
            .collect()
    };
    measure(&mut table, "plain", &filled(&PLAIN));
    measure(&mut table, "with references", &filled(&REFERENCES));
    for (name, piece) in [
        ("colons", ":"),
        ("almost a scheme", "ault:"),
        ("schemes", "vault:"),
        ("open references", "${vault:"),
        ("nested, then closed", "${vault:a#"),
        ("closed references", "${vault:a#b}"),
        ("an open one a line", "${vault:a#b\n"),
        ("arrows", "${>>"),
        ("braces", "}"),
        ("a long key", "#"),
    ] {
        for length in [BYTES / LONGER, BYTES] {
            let mut value = piece.repeat(length / piece.len());
            match name {
                "nested, then closed" => value.push_str(&"}".repeat(length / piece.len())),
                "a long key" => value.insert_str(0, "${vault:a#"),
                _ => {}
            }
            measure(&mut table, name, &[value]);
        }
    }
    println!("{table}");
    println!(
        "search: the bytes are searched for each `vault:`, and no more is done. ours: each reference is \
         found, and what is done about it. Medians of {ROUNDS} rounds, in turn."
    );
}

fn measure(table: &mut Table, name: &str, values: &[String]) {
    let finder = Finder::new(b"vault:");
    let search = || values.iter().map(|value| finder.find_iter(value.as_bytes()).count()).sum();
    let read = || {
        let held = values.iter().filter(|value| may_hold_reference(value));
        held.map(|value| read_value("VARIABLE", value).len()).sum()
    };
    let (mut searches, mut reads, mut references) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        searches.push(timed(search).0);
        let (took, found) = timed(read);
        reads.push(took);
        references = found;
    }
    let (search, ours) = (median(&mut searches), median(&mut reads));
    let bytes: usize = values.iter().map(String::len).sum();
    table.row([
        name.to_owned(),
        (bytes / values.len()).to_string(),
        references.to_string(),
        speed(bytes, search),
        speed(bytes, ours),
        format!("{:.2}", ours.as_secs_f64() / search.as_secs_f64()),
    ]);
}

fn timed(work: impl FnOnce() -> usize) -> (Duration, usize) {
    let began = Instant::now();
    let result = black_box(work());
    (began.elapsed(), result)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Megabytes a second, without digits behind the point.
fn speed(bytes: usize, time: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let bytes = bytes as f64;
    format!("{:.0}", bytes / 1e6 / time.as_secs_f64())
}
