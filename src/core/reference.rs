//! What counts as a reference to a secret, and what is done with each.
//!
//! This is the one place that reads references: [`grammar`] says how one value is read, [`reason`] why
//! a reference is not watched, and [`each`] where in a pod template they stand.
//!
//! Architecture Invariant: reading never fails. Every value yields the paths to watch and, for each
//! reference that is not watched or looks odd, a note with the reason.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use super::annotation::{Annotations, Webhook};
use super::environment::{Container, EnvFrom, EnvValue, EnvVar, SourceName};
use super::source::{Content, Known};

pub mod grammar;
pub mod reason;

pub use grammar::{Reading, Scheme, may_hold_reference};
pub use reason::Reason;

/// Where in a pod template a reference stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The environment of a container.
    Env {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
    },
    /// A key of a source that a variable comes from.
    Key {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
        /// The source.
        source: SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source {
        /// The container's name.
        container: String,
        /// The source.
        source: SourceName,
    },
    /// The annotation that lists paths of a scheme.
    FromPath(Scheme),
    /// The annotation that names the Vault namespace of a scheme.
    Namespace(Scheme),
    /// The annotation that names the address of the server of a scheme.
    Address(Scheme),
    /// The workload as a whole.
    Workload,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { container, name } => write!(f, "variable {name} of container {container}"),
            Self::Key { container, name, source, key } => {
                write!(f, "variable {name} of container {container}, key {key} of {source}")
            }
            Self::Source { container, source } => write!(f, "{source} of container {container}"),
            Self::FromPath(scheme) => write!(f, "annotation {}-from-path", scheme.name()),
            Self::Namespace(scheme) => write!(f, "annotation {}-namespace", scheme.name()),
            Self::Address(scheme) => write!(f, "annotation {}-addr", scheme.name()),
            Self::Workload => f.write_str("the references of the workload"),
        }
    }
}

/// One reference that is not watched or looks odd. It never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands.
    pub origin: Origin,
    /// Why it is noted.
    pub reason: Reason,
}

/// What a pod template refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction {
    /// The API paths to watch, cleaned, each once for the injector that looks for it, in order.
    pub paths: BTreeSet<(Scheme, String)>,
    /// What is not watched or looks odd.
    pub notes: Vec<Note>,
    /// Whether it names sources that are not known yet.
    pub is_waiting: bool,
}

/// Where one reference stands, and what stands there.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// A variable of a container.
    Env(&'a Container, &'a EnvVar),
    /// A key of a source that a variable comes from.
    Key {
        /// The container.
        container: &'a Container,
        /// The variable's name.
        variable: String,
        /// The source.
        source: &'a SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source(&'a Container, &'a SourceName),
    /// An item of an annotation that lists paths.
    FromPath(Scheme, &'a str),
}

impl From<Place<'_>> for Origin {
    fn from(place: Place) -> Self {
        match place {
            Place::Env(container, variable) => {
                Self::Env { container: container.name.clone(), name: variable.name.clone() }
            }
            Place::Key { container, variable, source, key } => Self::Key {
                container: container.name.clone(),
                name: variable,
                source: source.clone(),
                key,
            },
            Place::Source(container, source) => {
                Self::Source { container: container.name.clone(), source: source.clone() }
            }
            Place::FromPath(scheme, _) => Self::FromPath(scheme),
        }
    }
}

/// Reads all references of a pod template from its annotations and the environment of its containers.
/// Answers the sources that are not known yet.
///
/// `look_up` says what is known of a source.
pub fn each<'a>(
    annotations: &'a Annotations,
    containers: &'a [Container],
    look_up: impl Fn(&SourceName) -> Known,
    mut take: impl FnMut(Place<'a>, Reading),
) -> BTreeSet<&'a SourceName> {
    let known_provider =
        matches!(annotations.webhook(Webhook::Provider), None | Some("" | "vault" | "bao"));
    let mut take = |place, reading| {
        take(place, if known_provider { reading } else { Reading::Skip(Reason::OtherProvider) });
    };
    let mut sources = Sources { look_up, looked: HashMap::new(), left: MOST_WORK };
    for container in containers {
        for (place, reading) in sources.environment(container) {
            take(place, reading);
        }
    }
    for scheme in Scheme::ALL {
        let items = annotations.webhook(Webhook::FromPath(scheme)).unwrap_or_default();
        for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (path, version) = item.split_once('#').unwrap_or((item, ""));
            take(Place::FromPath(scheme, item), grammar::read_latest(scheme, path, version));
        }
    }
    sources.unknown()
}

/// How much is done for one workload beyond reading each of its variables, and each reference of its
/// sources, once: the names of variables that come from whole sources, and references that are read
/// again since several variables come from one key.
///
/// A source can be named many times, so these are the product of what a tenant writes. No program
/// starts with more variables than this: Linux gives it 6 MiB for them at most.
const MOST_WORK: usize = 50_000;

/// The sources that a workload names, each looked up once.
struct Sources<'a, L> {
    look_up: L,
    looked: HashMap<&'a SourceName, Looked>,
    /// How much may still be done of what [`MOST_WORK`] bounds.
    left: usize,
}

/// A source, and which of its keys were read.
struct Looked {
    known: Known,
    read: HashSet<usize>,
    /// Whether it was read as a whole, whatever the names of its variables.
    is_all_read: bool,
    /// Whether there is a reference in it.
    refers: bool,
}

impl<'a, L: Fn(&SourceName) -> Known> Sources<'a, L> {
    fn look_up(&mut self, source: &'a SourceName) -> Known {
        let look_up = &self.look_up;
        let new = || {
            let known = look_up(source);
            let refers = matches!(&known, Known::Read(content) if content.refers());
            Looked { known, read: HashSet::new(), is_all_read: false, refers }
        };
        self.looked.entry(source).or_insert_with(new).known.clone()
    }

    /// Whether there is a reference in a source that was looked up.
    fn refers(&self, source: &SourceName) -> bool {
        self.looked.get(source).is_some_and(|looked| looked.refers)
    }

    /// Whether a source was read as a whole before. It counts as such from now on.
    fn is_all_read(&mut self, source: &SourceName) -> bool {
        let looked = self.looked.get_mut(source);
        looked.is_none_or(|looked| std::mem::replace(&mut looked.is_all_read, true))
    }

    /// The sources that are not known yet.
    fn unknown(self) -> BTreeSet<&'a SourceName> {
        let unknown = self.looked.into_iter().filter(|(_, looked)| looked.known == Known::NotYet);
        unknown.map(|(source, _)| source).collect()
    }

    /// Whether something that is a product of what the tenant writes may be done.
    fn spend(&mut self, work: usize) -> bool {
        let is_enough = work <= self.left;
        if is_enough {
            self.left -= work;
        }
        is_enough
    }

    /// The references behind a key, for a variable. Those that were read before are left out where
    /// too many were: they are watched already.
    fn readings(
        &mut self,
        source: &'a SourceName,
        (index, kept): (usize, &[Kept]),
        variable: &Variable,
    ) -> Vec<Reading> {
        if kept.is_empty() {
            return Vec::new();
        }
        if variable.is_overridden {
            return vec![Reading::Skip(Reason::Overridden)];
        }
        let looked = self.looked.get_mut(source);
        let is_first = looked.is_some_and(|looked| looked.read.insert(index));
        if !is_first && !self.spend(kept.len()) {
            return Vec::new();
        }
        kept.iter().map(|kept| kept.reading_in(variable.name)).collect()
    }

    /// The references in the environment that a container gets, in order: of several variables of
    /// one name, the last one counts, and `env` comes after `envFrom`.
    fn environment(&mut self, container: &'a Container) -> Vec<(Place<'a>, Reading)> {
        let mut environment = Environment { container, names: HashSet::new(), found: Vec::new() };
        // From the end: a name that was met before is that of a later variable.
        for variable in container.variables.iter().rev() {
            match &variable.value {
                EnvValue::Literal(value) => {
                    let is_first = environment.names.insert(Cow::Borrowed(&variable.name));
                    let mut readings = read_value(&variable.name, value);
                    if !is_first && !readings.is_empty() {
                        readings = vec![Reading::Skip(Reason::Overridden)];
                    }
                    environment.add(&Place::Env(container, variable), readings);
                }
                EnvValue::Other => {
                    environment.names.insert(Cow::Borrowed(&variable.name));
                }
                EnvValue::Key { source, key, optional } => {
                    let name = variable.name.as_str();
                    let is_overridden = environment.names.contains(name);
                    let of = Variable { name, is_overridden };
                    let Some(readings) = self.key(&of, source, key, *optional) else { continue };
                    environment.names.insert(Cow::Borrowed(name));
                    let place = environment.place_of_key(name.to_owned(), source, key);
                    environment.add(&place, readings);
                }
            }
        }
        // The same once more has the same names.
        let mut whole = HashSet::new();
        for from in container.from.iter().rev() {
            let place = Place::Source(container, &from.source);
            let reason = match self.look_up(&from.source) {
                Known::Missing if from.optional => None,
                Known::NotYet => None,
                Known::Missing => Some(Reason::SourceMissing),
                Known::Not(reason) => Some(reason),
                Known::Read(_) if !whole.insert((&from.source, &from.prefix)) => {
                    self.refers(&from.source).then_some(Reason::Overridden)
                }
                Known::Read(content) => self.all(from, &content, &mut environment),
            };
            let reading = reason.map(|reason| (place, Reading::Skip(reason)));
            environment.found.extend(reading);
        }
        environment.found.reverse();
        environment.found
    }

    /// The references behind one key; `None` where there is no such variable.
    fn key(
        &mut self,
        variable: &Variable,
        source: &'a SourceName,
        key: &str,
        optional: bool,
    ) -> Option<Vec<Reading>> {
        let reason = match self.look_up(source) {
            Known::Read(content) => match content.get(key) {
                Some(found) => return Some(self.readings(source, found, variable)),
                None if optional => return None,
                None => Reason::KeyMissing,
            },
            Known::Missing if optional => return None,
            Known::Missing => Reason::SourceMissing,
            Known::Not(reason) => reason,
            Known::NotYet => return Some(Vec::new()),
        };
        Some(vec![Reading::Skip(reason)])
    }

    /// The references behind all keys of a source, and what is to be said of the source as a whole.
    fn all(
        &mut self,
        from: &'a EnvFrom,
        content: &Content,
        environment: &mut Environment<'a>,
    ) -> Option<Reason> {
        let is_told_apart = self.spend(content.len());
        if !is_told_apart && self.is_all_read(&from.source) {
            return Some(Reason::TooManyVariables);
        }
        for (index, key, kept) in content.iter().rev() {
            if !is_told_apart && kept.is_empty() {
                continue;
            }
            let name = format!("{}{key}", from.prefix);
            let is_overridden = is_told_apart && environment.names.contains(&*name);
            let of = Variable { name: &name, is_overridden };
            let readings = self.readings(&from.source, (index, kept), &of);
            if !readings.is_empty() {
                let place = environment.place_of_key(name.clone(), &from.source, key);
                environment.add(&place, readings);
            }
            if is_told_apart && !is_overridden {
                environment.names.insert(Cow::Owned(name));
            }
        }
        (!is_told_apart).then_some(Reason::TooManyVariables)
    }
}

/// A variable that has its value from a source.
struct Variable<'n> {
    name: &'n str,
    /// Whether a later one has its name.
    is_overridden: bool,
}

/// What is known of the environment of a container, from its end on.
struct Environment<'a> {
    container: &'a Container,
    /// The names of the variables that were met.
    names: HashSet<Cow<'a, str>>,
    /// The references that were met, the last one first.
    found: Vec<(Place<'a>, Reading)>,
}

impl<'a> Environment<'a> {
    fn add(&mut self, place: &Place<'a>, readings: Vec<Reading>) {
        let readings = readings.into_iter().rev();
        self.found.extend(readings.map(|reading| (place.clone(), reading)));
    }

    fn place_of_key(&self, name: String, source: &'a SourceName, key: &str) -> Place<'a> {
        Place::Key { container: self.container, variable: name, source, key: key.to_owned() }
    }
}

/// Collects the references of a pod template from its annotations and the environment of its
/// containers; `look_up` says what is known of a source.
#[must_use]
pub fn extract(
    annotations: &Annotations,
    containers: &[Container],
    look_up: impl Fn(&SourceName) -> Known,
) -> Extraction {
    let mut found = Extraction::default();
    let unknown =
        each(annotations, containers, look_up, |place, reading| found.add(place, reading));
    found.is_waiting = !unknown.is_empty();
    found
}

impl Extraction {
    fn add(&mut self, place: Place, reading: Reading) {
        let (path, reason) = match reading {
            Reading::Watch(scheme, path) => (Some((scheme, path)), None),
            Reading::WatchOdd(scheme, path, reason) => (Some((scheme, path)), Some(reason)),
            Reading::Skip(reason) => (None, Some(reason)),
        };
        self.paths.extend(path);
        self.notes.extend(reason.map(|reason| Note { origin: place.into(), reason }));
    }
}

/// What is kept of one reference in the value of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    reading: Reading,
    /// The variable in which it is the pod's own token.
    login_in: Option<&'static str>,
}

impl Kept {
    /// All references of a value. Kubernetes replaces nothing in the values of sources.
    #[must_use]
    pub fn all_of(value: &str) -> Box<[Self]> {
        let mut kept: Box<[Self]> = grammar::parse("", value)
            .iter()
            .map(|reference| Self { reading: reference.read_verbatim(), login_in: None })
            .collect();
        for variable in Scheme::ALL.map(Scheme::token_variable) {
            // Only what a reference is depends on the variable, not where there is one.
            let references =
                if kept.is_empty() { Vec::new() } else { grammar::parse(variable, value) };
            for (kept, reference) in kept.iter_mut().zip(references) {
                if reference.form == grammar::Form::Login {
                    kept.login_in = Some(variable);
                }
            }
        }
        kept
    }

    /// What is done about it in a variable.
    #[must_use]
    pub fn reading_in(&self, variable: &str) -> Reading {
        if self.login_in == Some(variable) {
            return Reading::Skip(Reason::Login);
        }
        self.reading.clone()
    }
}

/// Finds the references in one value, and what is done about each; a literal has none.
#[must_use]
pub fn read_value(variable: &str, value: &str) -> Vec<Reading> {
    grammar::parse(variable, value).iter().map(grammar::Reference::read).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::environment::SourceKind;
    use super::*;

    fn unknown(_: &SourceName) -> Known {
        Known::NotYet
    }

    fn container(from: &[EnvFrom], variables: &[EnvVar]) -> Container {
        Container { name: "app".to_owned(), from: from.to_vec(), variables: variables.to_vec() }
    }

    fn config_map(name: &str) -> SourceName {
        SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }
    }

    fn from(name: &str, prefix: &str, optional: bool) -> EnvFrom {
        EnvFrom { prefix: prefix.to_owned(), source: config_map(name), optional }
    }

    fn key(variable: &str, name: &str, key: &str, optional: bool) -> EnvVar {
        let (source, key) = (config_map(name), key.to_owned());
        EnvVar { name: variable.to_owned(), value: EnvValue::Key { source, key, optional } }
    }

    /// A cluster of some ConfigMaps: `refs`, `more`, one that may not be read, one that is not known
    /// yet; all others do not exist.
    fn cluster(named: &SourceName) -> Known {
        let read = |data: &[(&'static str, &'static str)]| {
            let data = data.iter().map(|(key, value)| (*key, value.as_bytes()));
            Known::Read(Arc::new(Content::new(data)))
        };
        match &*named.name {
            "refs" => read(&[
                ("A", "vault:secret/data/a#k"),
                ("B", "x${vault:secret/data/b#k}y${vault:secret/data/c#k#2}"),
                ("PLAIN", "x"),
                ("TOKEN", "vault:login"),
            ]),
            "more" => read(&[("A", "vault:secret/data/more#k"), ("B", "plain")]),
            "denied" => Known::Not(Reason::SourceDenied),
            "later" => Known::NotYet,
            _ => Known::Missing,
        }
    }

    fn paths_of(paths: BTreeSet<(Scheme, String)>) -> Vec<String> {
        paths.into_iter().map(|(_, path)| path).collect()
    }

    fn found(from: &[EnvFrom], variables: &[EnvVar]) -> (Vec<String>, Vec<Reason>, bool) {
        let found = extract(&Annotations::default(), &[container(from, variables)], cluster);
        let reasons = found.notes.iter().map(|note| note.reason).collect();
        (paths_of(found.paths), reasons, found.is_waiting)
    }

    #[test]
    fn env_from_takes_all_keys_and_the_last_of_a_name_counts() {
        let (a, b, more) = ("secret/data/a", "secret/data/b", "secret/data/more");
        let whole = (vec![a.into(), b.into()], vec![Reason::Pinned, Reason::NoKey], false);
        assert_eq!(found(&[from("refs", "", false)], &[]), whole);
        // Under another name nothing is overridden.
        let (paths, ..) = found(&[from("refs", "", false), from("more", "X_", false)], &[]);
        assert_eq!(paths, [a, b, more]);
        // The later source: `A` is another one there, and `B` a text.
        let (paths, reasons, _) = found(&[from("refs", "", false), from("more", "", false)], &[]);
        assert_eq!(paths, [more]);
        let overridden = reasons.iter().filter(|reason| **reason == Reason::Overridden).count();
        assert_eq!(overridden, 2);
        // `env` comes after `envFrom`, whatever its value.
        for value in [EnvValue::Literal("x".to_owned()), EnvValue::Other] {
            let variable = EnvVar { name: "A".to_owned(), value };
            assert_eq!(found(&[from("refs", "", false)], &[variable]).0, [b]);
        }
        let twice = [EnvVar::literal("X", "vault:a#k"), EnvVar::literal("X", "vault:b#k")];
        assert_eq!(found(&[], &twice).0, ["b"]);
    }

    /// A source with so many keys, each with so many references.
    fn source(keys: usize, references: usize) -> Known {
        let value = |key| {
            let reference = |number| format!("${{vault:secret/data/{key}-{number}#k}}");
            (0..references).map(reference).collect::<String>()
        };
        let data: Vec<_> = (0..keys).map(|key| (format!("K{key}"), value(key))).collect();
        let data = data.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        Known::Read(Arc::new(Content::new(data)))
    }

    #[test]
    fn a_product_of_sources_and_keys_is_not_worked_out() {
        let read = |container: &Container, known: &Known| {
            let mut taken = 0;
            let mut paths = HashSet::new();
            let annotations = Annotations::default();
            let mut reasons = BTreeSet::new();
            let containers = std::slice::from_ref(container);
            each(
                &annotations,
                containers,
                |_| known.clone(),
                |_, reading| {
                    taken += 1;
                    match reading {
                        Reading::Watch(_, path) => _ = paths.insert(path),
                        Reading::WatchOdd(_, _, reason) | Reading::Skip(reason) => {
                            reasons.insert(reason);
                        }
                    }
                },
            );
            (taken, paths.len(), reasons)
        };
        // The same source again and again is one source.
        let same: Vec<_> = (0..1_000).map(|_| from("big", "", false)).collect();
        let (taken, paths, reasons) = read(&container(&same, &[]), &source(10_000, 1));
        assert_eq!((paths, reasons), (10_000, BTreeSet::from([Reason::Overridden])));
        assert!(taken <= 10_000 + 1_000, "{taken}");
        // Under other names each time, it is said that they are too many; nothing goes unwatched.
        let other: Vec<_> =
            (0..1_000).map(|number| from("big", &format!("P{number}_"), false)).collect();
        let (taken, paths, reasons) = read(&container(&other, &[]), &source(10_000, 1));
        assert_eq!((paths, reasons), (10_000, BTreeSet::from([Reason::TooManyVariables])));
        assert!(taken <= 10_000 + MOST_WORK + 1_000, "{taken}");
        // So it is with one key in many variables.
        let keys: Vec<_> =
            (0..4_000).map(|number| key(&format!("V{number}"), "big", "K0", false)).collect();
        let (taken, paths, _) = read(&container(&[], &keys), &source(1, 4_000));
        assert_eq!(paths, 4_000);
        assert!(taken <= 4_000 + MOST_WORK, "{taken}");
        // A source whose keys are all overridden, and which is named once more in another container.
        let (once, again) = (container(&same, &[]), container(&other, &keys));
        let mut paths = BTreeSet::new();
        let known = source(10_000, 1);
        each(
            &Annotations::default(),
            &[once, again],
            |_| known.clone(),
            |_, reading| {
                if let Reading::Watch(_, path) = reading {
                    paths.insert(path);
                }
            },
        );
        assert_eq!(paths.len(), 10_000);
    }

    #[test]
    fn an_overridden_reference_is_watched_where_another_variable_has_it_too() {
        let variables = [key("X", "refs", "A", false), EnvVar::literal("X", "plain")];
        assert_eq!(found(&[], &variables).0, [""; 0]);
        let (paths, reasons, _) = found(&[from("refs", "", false)], &variables);
        assert_eq!(paths, ["secret/data/a", "secret/data/b"]);
        assert!(reasons.contains(&Reason::Overridden));
    }

    #[test]
    fn the_value_of_a_key_is_read_as_one_of_its_variable() {
        let (paths, reasons, _) = found(&[], &[key("X", "refs", "A", false)]);
        assert_eq!((paths, reasons), (vec!["secret/data/a".to_owned()], vec![]));
        let reasons = |variable| found(&[], &[key(variable, "refs", "TOKEN", false)]).1;
        assert_eq!(reasons("VAULT_TOKEN"), [Reason::Login]);
        assert_eq!(reasons("BAO_TOKEN"), [Reason::NoKey]);
        assert_eq!(found(&[], &[key("X", "refs", "PLAIN", false)]), (vec![], vec![], false));
    }

    #[test]
    fn what_is_missing_is_said_unless_it_is_optional() {
        assert_eq!(found(&[from("none", "", false)], &[]).1, [Reason::SourceMissing]);
        assert_eq!(found(&[from("none", "", true)], &[]).1, []);
        assert_eq!(found(&[], &[key("X", "none", "A", false)]).1, [Reason::SourceMissing]);
        assert_eq!(found(&[], &[key("X", "refs", "NONE", false)]).1, [Reason::KeyMissing]);
        for optional in [key("A", "none", "A", true), key("A", "refs", "NONE", true)] {
            // Then there is no such variable, which could take the place of another one.
            let all = found(&[from("more", "", false)], &[optional]);
            assert_eq!(all, (vec!["secret/data/more".to_owned()], vec![], false));
        }
    }

    #[test]
    fn what_is_not_known_is_waited_for_and_what_cannot_be_is_said() {
        assert!(found(&[from("later", "", true)], &[]).2);
        assert!(found(&[], &[key("X", "later", "A", true)]).2);
        let (paths, reasons, waits) = found(
            &[from("denied", "", false), from("refs", "", false)],
            &[key("Z", "denied", "Z", false)],
        );
        assert_eq!((paths.len(), waits), (2, false));
        assert_eq!(reasons.iter().filter(|reason| **reason == Reason::SourceDenied).count(), 2);
    }

    #[test]
    fn kubernetes_replaces_nothing_in_the_values_of_sources() {
        let value = "vault:secret/data/$(STAGE)/a#k";
        assert_eq!(read_value("X", value), [Reading::Skip(Reason::Expansion)]);
        let kept = Kept::all_of(value);
        let path = "secret/data/$(STAGE)/a".to_owned();
        assert_eq!(kept[0].reading_in("X"), Reading::Watch(Scheme::Vault, path));
    }

    #[test]
    fn from_path_annotations_are_trimmed_and_skip_pinned_items() {
        let annotations: Annotations = [(
            "secrets-webhook.security.bank-vaults.io/vault-from-path",
            " secret/data/a , secret/data/b#1,,secret/data/c#0,secret/data/d#x",
        )]
        .into_iter()
        .collect();
        let found = extract(&annotations, &[], unknown);
        assert_eq!(paths_of(found.paths), ["secret/data/a", "secret/data/c"]);
        let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
        assert_eq!(reasons, [Reason::Pinned, Reason::BadVersion]);
    }

    #[test]
    fn the_older_annotation_counts_only_where_the_current_is_absent() {
        let older = ("vault.security.banzaicloud.io/vault-env-from-path", "secret/data/old");
        let current =
            ("secrets-webhook.security.bank-vaults.io/vault-from-path", "secret/data/new");
        let paths = |pairs: &[(&str, &str)]| {
            let annotations: Annotations = pairs.iter().copied().collect();
            paths_of(extract(&annotations, &[], unknown).paths)
        };
        assert_eq!(paths(&[older]), ["secret/data/old"]);
        assert_eq!(paths(&[older, current]), ["secret/data/new"]);
    }

    #[test]
    fn another_provider_is_skipped_and_a_path_is_listed_once() {
        let app = [container(
            &[],
            &[
                EnvVar::literal("X", "vault:secret/data/a#x"),
                EnvVar::literal("Y", "vault:/secret/data/a/#y"),
            ],
        )];
        assert_eq!(extract(&Annotations::default(), &app, unknown).paths.len(), 1);
        let aws: Annotations =
            [("secrets-webhook.security.bank-vaults.io/provider", "aws")].into_iter().collect();
        let found = extract(&aws, &app, unknown);
        assert!(found.paths.is_empty());
        assert!(found.notes.iter().all(|note| note.reason == Reason::OtherProvider));
    }
}
