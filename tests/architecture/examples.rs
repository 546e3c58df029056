//! What the reader sees, and which circles are found, in small sources that are made up.

use std::collections::BTreeMap;

use crate::circles;
use crate::imports::{self, Crate, Imports, Names};

/// Reads a library `app` of some files, whose root is the first one.
fn read(files: &[(&str, &str)]) -> Imports {
    let sources: BTreeMap<_, _> =
        files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    imports::read(&[Crate { name: "app".to_owned(), root: files[0].0.to_owned() }], &sources)
}

/// The files that a file imports from.
fn imported<'a>(imports: &'a Imports, file: &str) -> Vec<&'a str> {
    imports.files[file].files.keys().map(String::as_str).collect()
}

/// What `src/a/b.rs` names, in a library that also has `src/a.rs`, `src/a/c.rs` and `src/d.rs`.
fn names_of(text: &str) -> Names {
    let mut imports = read(&[
        ("src/lib.rs", "pub mod a; pub mod d; pub fn at_root() {}"),
        ("src/a.rs", "mod b; pub mod c; pub struct A; pub use c::C as Again; use std::env;"),
        ("src/a/b.rs", text),
        ("src/a/c.rs", "pub struct C; impl C { pub fn new() -> Self { Self } }"),
        ("src/d.rs", "pub enum D { One } pub fn d() {} pub use kube::Client;"),
    ]);
    imports.files.remove("src/a/b.rs").unwrap()
}

#[test]
fn each_kind_of_import_is_seen() {
    let (root, a, c, d) = ("src/lib.rs", "src/a.rs", "src/a/c.rs", "src/d.rs");
    let table: [(&str, &[&str]); 31] = [
        ("use crate::d::D;", &[d]),
        ("use crate::{a::A, d::{self, D as Other}};", &[a, d]),
        ("use super::A;", &[a]),
        ("use super::c::C;", &[c]),
        ("use super::super::d::D;", &[d]),
        ("use self::inner::X; mod inner { pub use super::super::c::C as X; }", &[c]),
        ("use crate::at_root;", &[root]),
        ("use crate::d::*;", &[d]),
        ("use crate::d::D::*;", &[d]),
        ("pub(crate) use crate::d::D;", &[d]),
        // By a re-export, to the definition.
        ("use super::Again;", &[c]),
        ("use crate::a::Again as Yet;", &[c]),
        // A module alone is no import, and what is taken from it is one.
        ("use crate::d;", &[]),
        ("use crate::d; fn f() { d::d(); }", &[d]),
        ("fn f() { crate::d::d(); }", &[d]),
        ("fn f() -> super::c::C { super::c::C::new() }", &[c]),
        ("fn f(_: Option<crate::d::D>) {}", &[d]),
        ("struct S { d: crate::d::D }", &[d]),
        ("impl Clone for super::A { fn clone(&self) -> Self { Self } }", &[a]),
        ("fn f() { use crate::d::D; let _ = D::One; }", &[d]),
        ("fn f() { match 1 { _ => crate::d::D::One }; }", &[d]),
        ("const X: usize = <crate::d::D as Sized>::X;", &[d]),
        // In the arguments of macros and attributes.
        ("fn f() { println!(\"{}\", crate::d::d()); }", &[d]),
        ("fn f() { select! { x = super::c::C::new() => { crate::d::d() } } }", &[c, d]),
        ("macro_rules! m { () => { $crate::d::d() } }", &[d]),
        ("#[serde(with = crate::d::d)] struct S;", &[d]),
        // Which is no code that imports.
        (
            "/// See [`crate::d::D`].\nfn f() { /* crate::d::d() */ let _ = \"crate::d::d()\"; }",
            &[],
        ),
        ("#[expect(crate::d)] fn f() {}", &[]),
        // Code for tests only.
        ("#[cfg(test)] mod tests { use crate::d::D; }", &[]),
        ("#[cfg(test)] use crate::d::D; #[cfg(test)] fn f() { crate::d::d() }", &[]),
        (
            "struct S; impl S { #[cfg(test)] fn f() { use crate::d::D; crate::a::c::C::new(); } }",
            &[],
        ),
    ];
    for (text, expected) in table {
        let names = names_of(text);
        let found: Vec<_> = names.files.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn an_import_is_kept_as_it_is_written() {
    let names = names_of("use super::{Again, c::C}; fn f() { crate::d::d(); }");
    assert_eq!(
        names.files["src/a/c.rs"],
        ["super::Again", "super::c::C"].map(str::to_owned).into()
    );
    assert_eq!(names.files["src/d.rs"], ["crate::d::d".to_owned()].into());
}

#[test]
fn what_is_outside_is_seen_by_its_full_path() {
    let table: [(&str, &[&str]); 14] = [
        ("use std::env;", &["std::env"]),
        ("use std::env; fn f() { env::var(\"X\"); }", &["std::env", "std::env::var"]),
        (
            "use std::{env as e, fs::read}; fn f() { e::var(\"X\") }",
            &["std::env", "std::env::var", "std::fs::read"],
        ),
        ("use tokio as runtime; fn f() { runtime::spawn(g()); }", &["tokio", "tokio::spawn"]),
        ("fn f() { ::std::env::vars(); }", &["std::env::vars"]),
        ("fn f() { kube::Client::new() }", &["kube::Client::new"]),
        (
            "fn f() { tokio::select! { _ = std::env::var(\"X\") => {} } }",
            &["std::env::var", "tokio::select"],
        ),
        ("#[derive(thiserror::Error)] struct S;", &["thiserror::Error"]),
        ("#[tokio::main] fn f() {}", &["tokio::main"]),
        ("type T = Vec<kube::Api<k8s_openapi::Pod>>;", &["k8s_openapi::Pod", "kube::Api"]),
        // No crates: the prelude, type parameters, primitive types, a crate behind a re-export.
        ("fn f<T: Default>() { T::default(); Vec::<u8>::new(); Self::x(); u64::from(1); }", &[]),
        ("use crate::d::Client; fn f() { Client::new() }", &[]),
        // What the parent imports is not imported here.
        ("fn f() { std::mem::take(&mut 1) }", &["std::mem::take"]),
        ("use super::*; fn f() { env::var(\"X\") }", &["std::env::var"]),
    ];
    for (text, expected) in table {
        let names = names_of(text);
        let found: Vec<_> = names.outside.iter().map(String::as_str).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_re_export_of_another_crate_leads_to_the_file_that_has_it() {
    let names = names_of("use crate::d::Client;");
    assert_eq!(names.files.keys().collect::<Vec<_>>(), ["src/d.rs"]);
}

#[test]
fn async_code_and_calls_of_methods_are_seen() {
    for text in [
        "async fn f() {}",
        "fn f() { g().await }",
        "fn f() { let g = async {}; }",
        "fn f() { let g = async || 1; }",
        "trait T { async fn f(); }",
        "fn f() { join!(async { 1 }) }",
        "fn f() { select! { x = g().await => {} } }",
    ] {
        assert!(names_of(text).is_async, "{text}");
    }
    assert!(!names_of("fn f() { let asynchronous = \"async .await\"; }").is_async);
    for text in ["fn f() { set.spawn(g()); }", "fn f() { assert!(set.spawn(g())); }"] {
        assert!(names_of(text).methods.contains("spawn"), "{text}");
    }
    assert!(!names_of("fn f() { spawn(1); let spawn = 1; }").methods.contains("spawn"));
}

#[test]
fn crates_of_the_workspace_import_from_each_other() {
    let sources: BTreeMap<_, _> = [
        ("src/lib.rs", "pub mod a;"),
        ("src/a.rs", "pub fn a() {}"),
        ("tests/all/main.rs", "mod b; use app::a::a;"),
        ("tests/all/b.rs", "fn f() { ::app::a::a() }"),
    ]
    .map(|(file, text)| (file.to_owned(), text.to_owned()))
    .into();
    let crates = [("app", "src/lib.rs"), ("all", "tests/all/main.rs")]
        .map(|(name, root)| Crate { name: name.to_owned(), root: root.to_owned() });
    let imports = imports::read(&crates, &sources);
    assert_eq!(imported(&imports, "tests/all/main.rs"), ["src/a.rs"]);
    assert_eq!(imported(&imports, "tests/all/b.rs"), ["src/a.rs"]);
}

#[test]
fn files_for_tests_only_are_not_read() {
    let imports = read(&[
        ("src/lib.rs", "mod a; #[cfg(test)] mod fixtures; #[cfg(test)] mod tests;"),
        ("src/a/mod.rs", "#[cfg(test)] mod tests;"),
        ("src/a/tests.rs", "this is no Rust"),
        ("src/fixtures.rs", "use crate::a::X;"),
        ("src/tests/mod.rs", "use crate::a::X;"),
    ]);
    assert_eq!(imports.files.keys().collect::<Vec<_>>(), ["src/a/mod.rs", "src/lib.rs"]);
    for file in ["src/a/tests.rs", "src/fixtures.rs", "src/tests/mod.rs"] {
        assert!(imports.test_only.contains(file), "{file}");
    }
}

/// The circles of a library of some files.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    circles::describe(&read(files), &["src/"])
}

#[test]
fn a_circle_is_reported_with_its_imports() {
    let two = circles_of(&[
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        ("src/b.rs", "pub struct B; fn f() { super::a::A }"),
        ("src/c.rs", "use crate::a::A;"),
    ]);
    assert_eq!(
        two,
        ["a circle of 2 files:\n  \
                      src/a.rs imports src/b.rs: {\"crate::b::B\"}\n  \
                      src/b.rs imports src/a.rs: {\"super::a::A\"}"]
    );
}

#[test]
fn a_child_that_imports_from_its_parent_is_a_circle() {
    let child = ("src/child.rs", "use super::X; impl X { pub(super) fn y(&self) {} }");
    for parent in ["mod child; pub struct X;", "pub mod child; pub struct X;"] {
        let found = circles_of(&[("src/lib.rs", parent), child]);
        let expected = "a circle of 2 files:\n  \
                        src/child.rs imports src/lib.rs: {\"super::X\"}\n  \
                        src/lib.rs declares src/child.rs";
        assert_eq!(found, [expected]);
    }
    let aside = [("src/lib.rs", "mod x; mod child;"), ("src/x.rs", "pub struct X;")];
    let child = ("src/child.rs", "use super::x::X;");
    assert_eq!(circles_of(&[aside[0], aside[1], child]), Vec::<String>::new());
}

#[test]
fn a_long_circle_by_re_exports_is_found_and_nothing_else() {
    let three = [
        ("src/lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B; pub use c::C;"),
        ("src/a.rs", "use crate::B; pub struct A;"),
        ("src/b.rs", "use crate::C; pub struct B;"),
        ("src/c.rs", "use crate::A; pub struct C;"),
    ];
    let found = circles_of(&three);
    assert!(found.len() == 1 && found[0].starts_with("a circle of 3 files:"), "{found:?}");
    let none = [three[0], three[1], three[2], ("src/c.rs", "pub struct C;")];
    assert_eq!(circles_of(&none), Vec::<String>::new());
}
