//! Extracts the references to secrets from a pod template.
//!
//! References are read only here. [`grammar`] reads one value. [`crate::references::reason`] lists
//! why a reference is not watched. [`settings`] tells the destinations of a container's references.
//! [`each`] finds the places in a pod template.
//!
//! Architecture Invariant: reading never fails. Every value yields the paths to watch. Each
//! reference that is not watched or looks odd yields a note with the reason.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::annotation::Annotations;
use crate::model::scheme::Scheme;
use crate::references::environment::{Container, EnvFrom, EnvValue, EnvVar, SourceName};
use crate::references::grammar::{self, Reading};
use crate::references::place::{Note, Place};
use crate::references::reason::Reason;
use crate::references::settings::{self, Destination, Destinations, Setting, SettingValue};
use crate::references::source::{Content, SourceState};
use crate::references::stored_reference::StoredReference;

/// The references of a pod template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction<'a> {
    /// The cleaned API paths to watch, in order. Each path is listed once per injector and
    /// destination.
    pub paths: BTreeSet<(Scheme, Destination<'a>, String)>,
    /// The references that are not watched or look odd.
    pub notes: Vec<Note>,
    /// Whether the template names sources that are not known yet.
    pub is_waiting: bool,
}

/// Reads all references of a pod template from its annotations and the environment of its
/// containers. Calls `take` for each, with the destinations of the references at that place.
/// Returns the sources that are not known yet.
///
/// `look_up` returns the state of a source.
pub fn each<'a>(
    annotations: &'a Annotations,
    containers: &'a [Container],
    look_up: impl Fn(&SourceName) -> SourceState,
    mut take: impl FnMut(Place<'a>, Destinations<'a>, Reading),
) -> BTreeSet<&'a SourceName> {
    let (_, first_beyond) = sources_of(annotations, containers);
    let mut sources = Sources { look_up, first_beyond, looked: HashMap::new(), left: MOST_WORK };
    // The destinations of the paths that all containers get.
    let mut of_lists = Scheme::ALL.map(|scheme| (scheme, BTreeSet::new()));
    for container in containers {
        if annotations.is_left_alone() && !container.starts_injector {
            for place in not_injected(container) {
                take(place, Destinations::default(), Reading::Skip(Reason::MutateSkip));
            }
            continue;
        }
        let readings = sources.environment(container);
        let settings = sources.container_settings(annotations, container, &readings);
        for (place, reading) in readings {
            take(place, settings.destinations, by_provider(annotations, reading));
        }
        for (scheme, name, list) in settings.lists {
            for item in list.split(',') {
                let reading = by_provider(annotations, read_item(scheme, item));
                take(Place::Setting(container, name), settings.destinations, reading);
            }
        }
        for (name, reason) in settings.notes {
            take(Place::Setting(container, name), settings.destinations, Reading::Skip(reason));
        }
        for (scheme, destinations) in &mut of_lists {
            destinations.insert(settings.destinations.of(*scheme));
        }
    }
    if !annotations.is_left_alone() {
        for (scheme, destinations) in of_lists {
            sources.lists(annotations, scheme, destinations, &mut take);
        }
    }
    sources.unknown()
}

/// The most sources that are read for one workload. Each source is watched and kept, and few pods
/// use more than ten.
const MOST_SOURCES: usize = 500;

/// Returns the sources that containers with an injector name, and that are read: the first by kind
/// and name. Also returns the first source that is not read because of the limit.
#[must_use]
pub fn sources_of<'a>(
    annotations: &Annotations,
    containers: &'a [Container],
) -> (BTreeSet<&'a SourceName>, Option<&'a SourceName>) {
    let is_injected =
        |container: &&Container| container.starts_injector || !annotations.is_left_alone();
    let mut sources: BTreeSet<_> =
        containers.iter().filter(is_injected).flat_map(Container::sources).collect();
    let first_beyond = sources.iter().nth(MOST_SOURCES).copied();
    if let Some(first) = first_beyond {
        sources.split_off(first);
    }
    (sources, first_beyond)
}

/// Returns the variables with references in a container without an injector.
fn not_injected(container: &Container) -> impl Iterator<Item = Place<'_>> {
    let refers = |variable: &&EnvVar| match &variable.value {
        EnvValue::Literal(value) | EnvValue::Partly(value) => {
            !grammar::parse(&variable.name, value).is_empty()
        }
        EnvValue::Key { .. } | EnvValue::Other => false,
    };
    container.variables.iter().filter(refers).map(|variable| Place::Env(container, variable))
}

/// Applies the annotation that names the secret provider to a reference.
fn by_provider(annotations: &Annotations, reading: Reading) -> Reading {
    let is_resolved = match &reading {
        Reading::Watch(scheme, _) | Reading::WatchOdd(scheme, ..) => annotations.resolves(*scheme),
        Reading::Skip(_) => Scheme::ALL.into_iter().any(|scheme| annotations.resolves(scheme)),
    };
    // Only the webhook reads the annotation.
    let is_resolved = is_resolved || annotations.is_left_alone();
    if is_resolved { reading } else { Reading::Skip(Reason::OtherProvider) }
}

/// Reads an item of a list of paths. The injector trims no spaces.
fn read_item(scheme: Scheme, item: &str) -> Reading {
    let (path, version) = item.split_once('#').unwrap_or((item, ""));
    grammar::read_latest(scheme, path, version)
}

/// The settings that a container's variables give to its injector.
struct ContainerSettings<'a> {
    destinations: Destinations<'a>,
    /// The container's own lists of paths: the scheme, the variable and the list.
    lists: Vec<(Scheme, &'static str, &'a str)>,
    /// The notes on the container's variables.
    notes: BTreeSet<(&'static str, Reason)>,
}

/// A limit on the work for one workload, beyond reading each variable, and each reference of its
/// sources, once. The limit counts names of variables from whole sources, and references that are
/// read again because several variables come from one key.
///
/// A source can be named many times, so these counts are a product of the tenant's texts. No
/// program starts with more variables than this: Linux allows them at most 6 MiB.
const MOST_WORK: usize = 50_000;

/// The sources of a workload, each looked up once.
struct Sources<'a, L> {
    look_up: L,
    /// The first source that is not read because of [`MOST_SOURCES`].
    first_beyond: Option<&'a SourceName>,
    looked: HashMap<&'a SourceName, Looked>,
    /// The rest of [`MOST_WORK`].
    left: usize,
}

/// A source, and the keys of it that were read.
struct Looked {
    known: SourceState,
    read: HashSet<usize>,
    /// Whether the source was read as a whole, under any variable names.
    is_all_read: bool,
    /// Whether the source has a reference.
    refers: bool,
}

impl<'a, L: Fn(&SourceName) -> SourceState> Sources<'a, L> {
    fn look_up(&mut self, source: &'a SourceName) -> SourceState {
        let look_up = &self.look_up;
        let is_beyond = self.first_beyond.is_some_and(|first| source >= first);
        let new = || {
            let known = match source {
                _ if is_beyond => SourceState::Unreadable(Reason::TooManySources),
                source if !source.is_valid() => SourceState::Missing,
                source => look_up(source),
            };
            let refers = matches!(&known, SourceState::Read(content) if content.refers());
            Looked { known, read: HashSet::new(), is_all_read: false, refers }
        };
        self.looked.entry(source).or_insert_with(new).known.clone()
    }

    /// Whether a source that was looked up has a reference.
    fn refers(&self, source: &SourceName) -> bool {
        self.looked.get(source).is_some_and(|looked| looked.refers)
    }

    /// Returns whether a source was read as a whole before, and marks it as read.
    fn is_all_read(&mut self, source: &SourceName) -> bool {
        let looked = self.looked.get_mut(source);
        looked.is_none_or(|looked| std::mem::replace(&mut looked.is_all_read, true))
    }

    /// Returns the sources that are not known yet.
    fn unknown(self) -> BTreeSet<&'a SourceName> {
        let unknown =
            self.looked.into_iter().filter(|(_, looked)| looked.known == SourceState::Unread);
        unknown.map(|(source, _)| source).collect()
    }

    /// Takes `work` from the rest of [`MOST_WORK`]. Returns false if too little is left.
    fn spend(&mut self, work: usize) -> bool {
        let is_enough = work <= self.left;
        if is_enough {
            self.left -= work;
        }
        is_enough
    }

    /// Returns the references of a key, for a variable. If the limit on work is used up, references
    /// that were read before are left out: they are watched already.
    fn readings(
        &mut self,
        source: &'a SourceName,
        (index, kept): (usize, &[StoredReference]),
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

    /// Returns a setting of a container, with the variable that holds it.
    fn setting(
        &mut self,
        container: &'a Container,
        setting: Setting,
        scheme: Scheme,
    ) -> Option<(&'static str, SettingValue<'a>)> {
        let names = setting.names(scheme).iter();
        names.copied().find_map(|name| Some((name, self.setting_in(container, name)?)))
    }

    /// Returns the value of a variable that is a setting. Returns `None` if the variable does not
    /// exist, or may not exist.
    fn setting_in(&mut self, container: &'a Container, name: &str) -> Option<SettingValue<'a>> {
        let mut holds = |source: &'a SourceName, key: &str| match self.look_up(source) {
            SourceState::Read(content) => content.get(key).is_some(),
            SourceState::Unread | SourceState::Unreadable(_) | SourceState::Missing => false,
        };
        match container.variable(name).map(|variable| &variable.value) {
            Some(EnvValue::Literal(text)) => return Some(SettingValue::Text(text)),
            Some(EnvValue::Partly(_) | EnvValue::Other) => return Some(SettingValue::Unknown),
            Some(EnvValue::Key { source, key, optional }) if !optional || holds(source, key) => {
                return Some(SettingValue::Unknown);
            }
            Some(EnvValue::Key { .. }) | None => {}
        }
        let mut from = container.from.iter();
        let is_in_source = from.any(|from| {
            let key = name.strip_prefix(from.prefix.as_str());
            key.is_some_and(|key| holds(&from.source, key))
        });
        is_in_source.then_some(SettingValue::Unknown)
    }

    /// Returns the settings that a container's variables give to its injector. `readings` are the
    /// references in its environment.
    fn container_settings(
        &mut self,
        annotations: &'a Annotations,
        container: &'a Container,
        readings: &[(Place<'a>, Reading)],
    ) -> ContainerSettings<'a> {
        let mut found = ContainerSettings {
            destinations: Destinations::default(),
            lists: Vec::new(),
            notes: BTreeSet::new(),
        };
        let is_by_hand = annotations.is_left_alone();
        // The webhook adds an injector only to a container with something to resolve.
        let is_injected = is_by_hand
            || readings
                .iter()
                .any(|(place, _)| matches!(place, Place::Env(..) | Place::Key { .. }));
        for scheme in Scheme::ALL {
            let list = annotations.path_list(scheme).filter(|_| !is_by_hand);
            if list.is_none() && !is_injected {
                continue;
            }
            let mut is_used = list.is_some()
                || readings.iter().any(|(_, reading)| match reading {
                    Reading::Watch(of, _) | Reading::WatchOdd(of, ..) => *of == scheme,
                    Reading::Skip(_) => false,
                });
            if list.is_none() {
                match self.setting(container, Setting::FromPath, scheme) {
                    Some((name, SettingValue::Text(list))) if !list.is_empty() => {
                        found.lists.push((scheme, name, list));
                        is_used = true;
                    }
                    Some((name, SettingValue::Unknown)) => {
                        found.notes.insert((name, Reason::SettingUnknown));
                        is_used = true;
                    }
                    Some((_, SettingValue::Text(_))) | None => {}
                }
            }
            if is_used {
                self.set_destination(annotations, container, scheme, &mut found);
            }
        }
        found
    }

    /// Sets the destination of a scheme's references in a container.
    fn set_destination(
        &mut self,
        annotations: &'a Annotations,
        container: &'a Container,
        scheme: Scheme,
        found: &mut ContainerSettings<'a>,
    ) {
        let is_by_hand = annotations.is_left_alone();
        let mut destination = Destination::default();
        if is_by_hand {
            destination.container = Some(&container.name);
            match self.setting(container, Setting::Address, scheme) {
                Some((_, SettingValue::Text(text))) => {
                    destination.address = Some(text).filter(|text| !text.is_empty());
                }
                Some((name, SettingValue::Unknown)) => {
                    found.notes.insert((name, Reason::SettingUnknown));
                }
                None => {}
            }
        }
        // If the annotation names a namespace, the webhook adds its own variable.
        if is_by_hand || settings::annotated_namespace(annotations, scheme).is_none() {
            match self.setting(container, Setting::Namespace, scheme) {
                Some((name, SettingValue::Text(text))) => {
                    destination.namespace = settings::namespace(text);
                    let is_bad = destination.namespace.is_some_and(|n| !settings::is_namespace(n));
                    found.notes.extend(is_bad.then_some((name, Reason::BadNamespace)));
                }
                Some((name, SettingValue::Unknown)) => {
                    found.notes.insert((name, Reason::SettingUnknown));
                }
                None => {}
            }
        }
        found.destinations.set(scheme, destination);
    }

    /// Reads the list of paths that all containers get, for each of their destinations.
    fn lists(
        &mut self,
        annotations: &'a Annotations,
        scheme: Scheme,
        destinations: BTreeSet<Destination<'a>>,
        take: &mut impl FnMut(Place<'a>, Destinations<'a>, Reading),
    ) {
        let Some(list) = annotations.path_list(scheme) else { return };
        let mut is_first = true;
        let none = destinations.is_empty().then(Destination::default);
        for destination in destinations.into_iter().chain(none) {
            let mut all = Destinations::default();
            all.set(scheme, destination);
            // With many containers that have their own namespaces, this work is a product.
            if !std::mem::take(&mut is_first) && !self.spend(list.split(',').count()) {
                take(Place::FromPath(scheme, list), all, Reading::Skip(Reason::TooManyVariables));
                return;
            }
            for item in list.split(',') {
                let reading = by_provider(annotations, read_item(scheme, item));
                take(Place::FromPath(scheme, item), all, reading);
            }
        }
    }

    /// Returns the references in a container's environment, in order. Of several variables with one
    /// name, the last counts. `env` comes after `envFrom`.
    fn environment(&mut self, container: &'a Container) -> Vec<(Place<'a>, Reading)> {
        let mut environment = Environment { container, names: HashSet::new(), found: Vec::new() };
        // The walk begins at the end: a name that was seen before belongs to a later variable.
        for variable in container.variables.iter().rev() {
            match &variable.value {
                EnvValue::Literal(value) | EnvValue::Partly(value) => {
                    let is_first = environment.names.insert(Cow::Borrowed(&variable.name));
                    let mut readings = match &variable.value {
                        EnvValue::Partly(_) => read_partly(&variable.name, value),
                        _ => read_value(&variable.name, value),
                    };
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
        // The same source with the same prefix yields the same names again.
        let mut whole = HashSet::new();
        for from in container.from.iter().rev() {
            let place = Place::Source(container, &from.source);
            let reason = match self.look_up(&from.source) {
                SourceState::Missing if from.optional => None,
                SourceState::Unread => None,
                SourceState::Missing => Some(Reason::SourceMissing),
                SourceState::Unreadable(reason) => Some(reason),
                SourceState::Read(_) if !whole.insert((&from.source, &from.prefix)) => {
                    self.refers(&from.source).then_some(Reason::Overridden)
                }
                SourceState::Read(content) => {
                    let reason = content.is_resolved().then_some(Reason::ResolvedWhenApplied);
                    self.all(from, &content, &mut environment).or(reason)
                }
            };
            let reading = reason.map(|reason| (place, Reading::Skip(reason)));
            environment.found.extend(reading);
        }
        environment.found.reverse();
        environment.found
    }

    /// Returns the references of one key. Returns `None` if the variable does not exist.
    fn key(
        &mut self,
        variable: &Variable,
        source: &'a SourceName,
        key: &str,
        optional: bool,
    ) -> Option<Vec<Reading>> {
        let reason = match self.look_up(source) {
            SourceState::Read(content) => match content.get(key) {
                Some(_) if content.is_resolved() => Reason::ResolvedWhenApplied,
                Some(found) => return Some(self.readings(source, found, variable)),
                None if optional => return None,
                None => Reason::KeyMissing,
            },
            SourceState::Missing if optional => return None,
            SourceState::Missing => Reason::SourceMissing,
            SourceState::Unreadable(reason) => reason,
            SourceState::Unread => return Some(Vec::new()),
        };
        Some(vec![Reading::Skip(reason)])
    }

    /// Returns the references of all keys of a source, and the notes on the source as a whole.
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

/// A variable whose value comes from a source.
struct Variable<'n> {
    name: &'n str,
    /// Whether a later variable has the same name.
    is_overridden: bool,
}

/// The environment of a container, read from its end.
struct Environment<'a> {
    container: &'a Container,
    /// The names of the variables so far.
    names: HashSet<Cow<'a, str>>,
    /// The references so far, the last one first.
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
/// containers. `look_up` returns the state of a source.
#[must_use]
pub fn extract<'a>(
    annotations: &'a Annotations,
    containers: &'a [Container],
    look_up: impl Fn(&SourceName) -> SourceState,
) -> Extraction<'a> {
    let mut found = Extraction::default();
    let unknown = each(annotations, containers, look_up, |place, destinations, reading| {
        found.add(place, destinations, reading);
    });
    found.is_waiting = !unknown.is_empty();
    found
}

impl<'a> Extraction<'a> {
    fn add(&mut self, place: Place, destinations: Destinations<'a>, reading: Reading) {
        let (path, reason) = match reading {
            Reading::Watch(scheme, path) => (Some((scheme, path)), None),
            Reading::WatchOdd(scheme, path, reason) => (Some((scheme, path)), Some(reason)),
            Reading::Skip(reason) => (None, Some(reason)),
        };
        let path = path.map(|(scheme, path)| (scheme, destinations.of(scheme), path));
        self.paths.extend(path);
        self.notes.extend(reason.map(|reason| Note { origin: place.into(), reason }));
    }
}

/// As [`read_value`], for a value with unknown variables, which stay as `$(NAME)`.
fn read_partly(variable: &str, value: &str) -> Vec<Reading> {
    grammar::parse(variable, value).iter().map(grammar::Reference::read_partly).collect()
}

/// Finds the references in one value, and decides about each. A literal has none.
#[must_use]
pub fn read_value(variable: &str, value: &str) -> Vec<Reading> {
    grammar::parse(variable, value).iter().map(grammar::Reference::read).collect()
}

#[cfg(test)]
mod tests;
