//! Tables in the order of the grammar, and properties of any value.

use proptest::prelude::*;

use super::*;

fn readings(variable: &str, value: &str) -> Vec<Reading> {
    parse(variable, value).iter().map(Reference::read).collect()
}

fn watch(path: &str) -> Vec<Reading> {
    vec![Reading::Watch(Scheme::Vault, path.to_owned())]
}

fn watch_bao(path: &str) -> Vec<Reading> {
    vec![Reading::Watch(Scheme::Bao, path.to_owned())]
}

fn odd(path: &str, reason: Reason) -> Vec<Reading> {
    vec![Reading::WatchOdd(Scheme::Vault, path.to_owned(), reason)]
}

fn skip(reason: Reason) -> Vec<Reading> {
    vec![Reading::Skip(reason)]
}

/// One line per form of the grammar.
#[test]
fn whole_values() {
    let cases = [
        ("vault:secret/data/a#k", watch("secret/data/a")),
        ("bao:secret/data/a#k", watch_bao("secret/data/a")),
        ("vault:secret/data/a#${.k}", watch("secret/data/a")),
        ("vault:secret/data/a#${.k | b64enc}", watch("secret/data/a")),
        ("vault:secret/data/a#text ${.k} text", watch("secret/data/a")),
        ("vault:secret/data/a#k}", watch("secret/data/a")),
        ("vault:secret/data/a#", odd("secret/data/a", Reason::NoKey)),
        ("vault:secret/data/a##", odd("secret/data/a", Reason::NoKey)),
        ("vault:secret/data/a\u{20}#k", odd("secret/data/a\u{20}", Reason::SpaceAroundPath)),
        ("vault:\u{20}secret/data/a#k", odd("\u{20}secret/data/a", Reason::SpaceAroundPath)),
        ("vault:secret/data/a b#k", watch("secret/data/a b")),
        ("vault:secret/data/a?x=1#k", watch("secret/data/a?x=1")),
        (">>vault:pki/issue/r#certificate#{\"a\":\"b#c\"}", skip(Reason::Write)),
        (">>bao:pki/issue/r#certificate#{}", skip(Reason::Write)),
        (">>vault:pki/issue/r#certificate", skip(Reason::Write)),
        (">>vault:pki/issue/r", skip(Reason::NoKey)),
        ("vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zo==", skip(Reason::Transit)),
        ("vault:v12:x", skip(Reason::Transit)),
        (">>vault:v12:x", skip(Reason::Transit)),
        ("vault:v1:a#b", skip(Reason::Transit)),
        ("vault:v1:", skip(Reason::NoKey)),
        ("vault:v1:a\nb", skip(Reason::NoKey)),
        // Only Vault's injector looks for the mark of the transit engine, which is `vault:`.
        ("bao:v1:8SDd3WHDOjf7mq69==", skip(Reason::NoKey)),
        ("vault:secret/data/a", skip(Reason::NoKey)),
        ("vault:login", skip(Reason::NoKey)),
        ("vault:", skip(Reason::NoKey)),
        ("vault:#k", skip(Reason::NoPath)),
        ("vault:/#k", skip(Reason::NoPath)),
        ("vault:/secret//data/./a/#k", watch("secret/data/a")),
        ("vault:secret/data/b/../a#k", watch("secret/data/a")),
        ("vault:../sys/raw#k", skip(Reason::BadPath)),
        ("vault:secret/data/a\nb#k", skip(Reason::BadPath)),
        ("vault:secret/data/ä ö#k", watch("secret/data/ä ö")),
        ("vault:v1beta/data/a#k", watch("v1beta/data/a")),
        ("vault:secret/data/$(STAGE)/a#k", watch("secret/data/$(STAGE)/a")),
        ("vault:secret/data/$(a#k", watch("secret/data/$(a")),
        // Literals.
        ("", vec![]),
        ("plain", vec![]),
        (" vault:secret/data/a#k", vec![]),
        ("Vault:secret/data/a#k", vec![]),
        (">vault:secret/data/a#k", vec![]),
        (">>>vault:secret/data/a#k", vec![]),
        (">> vault:secret/data/a#k", vec![]),
        ("see vault:secret/data/a#k", vec![]),
        ("arn:aws:secretsmanager:eu:1:secret:x", vec![]),
        ("gcp:secretmanager:x", vec![]),
    ];
    for (value, expected) in cases {
        assert_eq!(readings("PASSWORD", value), expected, "{value:?}");
    }
}

#[test]
fn what_is_known_in_part_is_read_where_that_is_enough() {
    let cases = [
        ("vault:secret/data/$(STAGE)/a#k", skip(Reason::Expansion)),
        ("vault:secret/data/a#k#$(VERSION)", skip(Reason::Expansion)),
        ("vault:secret/data/a#$(KEY)", watch("secret/data/a")),
        ("$(X)${vault:secret/data/a#k}", watch("secret/data/a")),
        ("vault:secret/data/$(a#k", watch("secret/data/$(a")),
        ("vault:$(X)", skip(Reason::NoKey)),
    ];
    for (value, expected) in cases {
        let readings: Vec<_> = parse("X", value).iter().map(Reference::read_partly).collect();
        assert_eq!(readings, expected, "{value:?}");
    }
}

/// The versions that the server accepts.
#[test]
fn versions() {
    let cases = [
        ("", watch("a")),
        ("-1", watch("a")),
        ("0", watch("a")),
        ("-0x10", watch("a")),
        ("00", watch("a")),
        ("3", skip(Reason::Pinned)),
        ("+3", skip(Reason::Pinned)),
        ("0x1F", skip(Reason::Pinned)),
        ("0b11", skip(Reason::Pinned)),
        ("0o17", skip(Reason::Pinned)),
        ("017", skip(Reason::Pinned)),
        ("1_000", skip(Reason::Pinned)),
        ("0x_1", skip(Reason::Pinned)),
        ("0_7", skip(Reason::Pinned)),
        ("9223372036854775807", skip(Reason::Pinned)),
        ("9223372036854775808", skip(Reason::BadVersion)),
        ("99999999999999999999999999999999999999999", skip(Reason::BadVersion)),
        ("018", skip(Reason::BadVersion)),
        ("_1", skip(Reason::BadVersion)),
        ("1_", skip(Reason::BadVersion)),
        ("1__0", skip(Reason::BadVersion)),
        ("0x", skip(Reason::BadVersion)),
        ("+", skip(Reason::BadVersion)),
        ("--1", skip(Reason::BadVersion)),
        ("+-1", skip(Reason::BadVersion)),
        ("abc", skip(Reason::BadVersion)),
        ("3#4", skip(Reason::BadVersion)),
        (" 3", skip(Reason::BadVersion)),
        ("1.0", skip(Reason::BadVersion)),
        ("1e3", skip(Reason::BadVersion)),
    ];
    for (version, expected) in cases {
        assert_eq!(readings("X", &format!("vault:a#k#{version}")), expected, "{version:?}");
    }
}

#[test]
fn inline_values() {
    let cases = [
        (
            "x${vault:secret/data/a#u}:${vault:secret/data/b#${.p | urlquery}}@h",
            [watch("secret/data/a"), watch("secret/data/b")].concat(),
        ),
        ("${vault:secret/data/a#u#2}", skip(Reason::Pinned)),
        ("${vault:secret/data/a#u#}", watch("secret/data/a")),
        ("${vault:secret/data/a###}", skip(Reason::BadVersion)),
        (r#"{"p":${vault:secret/data/a#n}}"#, odd("secret/data/a", Reason::BraceInKey)),
        (r#"{"p":${vault:secret/data/a#n} }"#, watch("secret/data/a")),
        (r#"{"p":"${vault:secret/data/a#n}"}"#, watch("secret/data/a")),
        (r#"{"p":${vault:secret/data/a#n#2}}"#, skip(Reason::BadVersion)),
        ("${vault:secret/data/a#${.u}:${.p}}", odd("secret/data/a", Reason::TemplateCut)),
        ("${vault:secret/data/a#x ${.u} y}", odd("secret/data/a", Reason::TemplateCut)),
        ("${>vault:x#y}", skip(Reason::SingleArrow)),
        ("${>>>vault:x#y}", vec![]),
        ("${>>vault:pki/issue/r#certificate#{}}", skip(Reason::Write)),
        ("${vault:v1:8SDd3WHDOjf7==}", skip(Reason::Transit)),
        ("${vault:}", skip(Reason::NoKey)),
        ("${vault:a}", skip(Reason::NoKey)),
        ("${bao:secret/data/a#u}", watch_bao("secret/data/a")),
        // In the order of the value, whichever injector resolves them.
        ("${bao:b#k}${vault:a#k}", [watch_bao("b"), watch("a")].concat()),
        // Inline references win over the whole value, for each injector separately.
        ("vault:secret/data/x#a${vault:secret/data/a#u}", watch("secret/data/a")),
        ("vault:x#a${bao:y}", [watch("x"), skip(Reason::NoKey)].concat()),
        ("vault:x#a${bao:y#u}", [skip(Reason::BadVersion), watch_bao("y")].concat()),
        // The inner reference is resolved, and the outer one is left as it is.
        ("${vault:a#${vault:b#k}}", [skip(Reason::Nested), watch("b")].concat()),
        ("${>>vault:a#${vault:b#k}}", [skip(Reason::Nested), watch("b")].concat()),
        ("${vault:a#${vault:b#k} }", skip(Reason::BadVersion)),
        // A reference does not span lines.
        ("${vault:secret/data/a\n#u}", vec![]),
        ("${vault:a\n${vault:b#k}", watch("b")),
        ("${vault:secret/data/a#u", vec![]),
        ("${VAULT:secret/data/a#u}", vec![]),
        ("$${vault:a#k}", watch("a")),
    ];
    for (value, expected) in cases {
        assert_eq!(readings("URL", value), expected, "{value:?}");
    }
}

/// Tests values of all lengths around the block length, with the scheme at each position.
#[test]
fn a_scheme_is_seen_wherever_it_stands() {
    for length in 0..4 * BLOCK {
        for at in 0..=length {
            for scheme in ["vault:", "bao:"] {
                let with = |scheme: &str| {
                    format!("{}{scheme}{}", "t:".repeat(at), "o".repeat(length - at))
                };
                assert!(may_hold_reference(&with(scheme)), "{scheme} at {at} of {length}");
                assert!(!may_hold_reference(&with(&scheme[1..])), "{scheme} at {at} of {length}");
            }
        }
    }
}

#[test]
fn a_path_has_an_end() {
    let value = |length: usize| format!("vault:{}#k", "a".repeat(length));
    assert_eq!(readings("X", &value(LONGEST_PATH)), watch(&"a".repeat(LONGEST_PATH)));
    assert_eq!(readings("X", &value(LONGEST_PATH + 1)), skip(Reason::BadPath));
}

#[test]
fn login_counts_only_in_the_variable_of_its_own_scheme() {
    assert_eq!(readings("VAULT_TOKEN", "vault:login"), skip(Reason::Login));
    assert_eq!(readings("VAULT_TOKEN", "${vault:login}"), skip(Reason::Login));
    assert_eq!(readings("BAO_TOKEN", "bao:login"), skip(Reason::Login));
    assert_eq!(readings("BAO_TOKEN", "vault:login"), skip(Reason::NoKey));
}

#[test]
fn a_span_is_what_is_replaced() {
    let value = "é${vault:a#k}, ${vault:b#${vault:c#k}}!";
    let spans: Vec<_> =
        parse("X", value).into_iter().map(|reference| &value[reference.span]).collect();
    assert_eq!(spans, ["${vault:a#k}", "${vault:b#${vault:c#k}}", "${vault:c#k}"]);
}

#[test]
fn canonical_spellings() {
    let cases = [
        ("vault:/secret//data/a#k#0", Some("vault:secret/data/a#k")),
        ("bao:secret/data/a#k#0x3", Some("bao:secret/data/a#k#3")),
        ("x${vault:a#${.k}}", Some("vault:a#${.k}")),
        ("vault:/v1:x#k", Some("vault:/v1:x#k")),
        ("vault:a#k#x", None),
        ("vault:a", None),
        (">>vault:a#k", None),
    ];
    for (value, expected) in cases {
        assert_eq!(parse("X", value)[0].canonical().as_deref(), expected, "{value:?}");
    }
}

/// Texts that often combine the signs of the grammar.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("vault:"), 2 => Just("bao:"), 4 => Just("${"), 4 => Just("}"), 3 => Just("#"),
        2 => Just(">"), 2 => Just("a"), 1 => Just("/"), 1 => Just("\n"), 1 => Just("v1:"),
        1 => Just("-1"), 1 => Just("2"), 1 => Just("$("), 1 => Just(")"), 1 => Just(".."),
        1 => Just("é"), 1 => Just("login"),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_canonical_is_read_as_itself(value in texts()) {
        for reference in parse("X", &value) {
            let Some(canonical) = reference.canonical() else {
                continue;
            };
            let again = parse("X", &canonical);
            let same = again.iter().find(|r| r.scheme == reference.scheme && !r.is_inline);
            // As a value of its own, a key with an inline reference of its scheme would give way to
            // that reference. Between braces there is no such key.
            let Some(same) = same else {
                prop_assert!(!reference.is_inline, "{:?}", canonical);
                continue;
            };
            prop_assert_eq!(same.canonical(), Some(canonical.clone()));
            let path = |reading| match reading {
                Reading::Watch(_, path) | Reading::WatchOdd(_, path, _) => Some(path),
                Reading::Skip(_) => None,
            };
            prop_assert_eq!(path(same.read()), path(reference.read()));
        }
    }

    #[test]
    fn text_around_never_changes_the_references(
        body in "[a-z/#.$() -]{0,12}", before in "[^$]{0,8}", behind in "[^}]{0,8}"
    ) {
        let inline = format!("${{vault:{body}}}");
        let around = format!("{before}{inline}{behind}");
        let spans = |value: &str| -> Vec<String> {
            let of_vault = |r: &Reference| r.scheme == Scheme::Vault;
            let found = parse("X", value).into_iter().filter(of_vault);
            found.map(|r| value[r.span.clone()].to_owned()).collect()
        };
        prop_assert_eq!(&spans(&inline), std::slice::from_ref(&inline));
        prop_assert_eq!(readings("X", &inline), readings("X", &around));
        prop_assert_eq!(spans(&inline), spans(&around));
    }

    #[test]
    fn any_text_is_read_and_what_is_watched_is_clean(value in texts(), other in any::<String>()) {
        for value in [value, other] {
            let found = parse("VAULT_TOKEN", &value);
            prop_assert!(found.is_empty() || may_hold_reference(&value));
            for reference in found {
                prop_assert!(value.is_char_boundary(reference.span.start));
                prop_assert!(!value[reference.span.clone()].is_empty());
                if let Reading::Watch(_, path) | Reading::WatchOdd(_, path, _) = reference.read() {
                    prop_assert_eq!(clean_path(&path), Ok(path));
                }
            }
        }
    }
}
