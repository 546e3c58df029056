//! Each block of code in the documentation is one that works: manifests, values, policies and files
//! are read as the program and the chart read them, and command lines of the program are parsed.
//! The scenarios `docs` of `e2e/` run the commands.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, its helpers too")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use regex::Regex;
use serde_json::Value;
use vault_secrets_reloader::cli;
use vault_secrets_reloader::config::{Flags, PathRulesFile, ServersFile};
use vault_secrets_reloader::model::annotation::described;
use vault_secrets_reloader::model::time_rules::TimeRules;
use vault_secrets_reloader::notifications::template::Template;
use vault_secrets_reloader::references::time_rules::first_error;

const CHART: &str = "deploy/charts/vault-secrets-reloader";
const PROGRAM: &str = "vault-secrets-reloader";

/// The languages of blocks. `console` has commands after a `$`, with their output.
const LANGUAGES: [&str; 7] = ["console", "hcl", "jinja", "mermaid", "sh", "text", "yaml"];

/// Flags of other programs that prose names without their program.
const OTHER_FLAGS: [(&str, &str); 8] = [
    ("--build-context", "docker"),
    ("--cascade", "kubectl"),
    ("--force-conflicts", "kubectl"),
    ("--help", "all programs"),
    ("--override-manager", "kustomize-controller of Flux"),
    ("--server-side", "kubectl"),
    ("--service-account-key-file", "kube-apiserver"),
    ("--set-file", "helm"),
];

/// The capabilities that a policy of Vault may grant.
const CAPABILITIES: [&str; 9] =
    ["create", "read", "update", "patch", "delete", "list", "sudo", "deny", "scan"];

/// A block of code.
#[derive(Debug)]
struct Block {
    /// `PAGE:LINE`
    place: String,
    language: String,
    /// The lines, without the indentation of the block.
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// The pages, by their path from the root.
fn pages() -> Vec<PathBuf> {
    let mut folders = vec![root().join("docs"), root().join("deploy")];
    let mut pages = Vec::new();
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    pages.extend(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(is_page));
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if is_page(&path) {
                pages.push(path);
            }
        }
    }
    pages.sort();
    assert!(pages.len() > 20, "the pages were not found");
    pages.into_iter().map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect()
}

/// The blocks of a page, and its lines outside of them.
fn parts(page: &Path) -> (Vec<Block>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in (1..).zip(read(page).lines()) {
        let content = line.trim_start();
        match (content.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                let place = format!("{}:{number}", page.display());
                let block = Block { place, language: language.to_owned(), text: String::new() };
                open = Some((line.len() - content.len(), block));
            }
            (Some(_), Some((_, block))) => blocks.push(block),
            (None, Some((indent, mut block))) => {
                block.text.push_str(line.get(indent..).unwrap_or_default());
                block.text.push('\n');
                open = Some((indent, block));
            }
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert!(open.is_none(), "{}: a block without an end", page.display());
    (blocks, prose)
}

fn blocks() -> Vec<Block> {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| parts(page).0).collect();
    assert!(blocks.len() > 40, "{}", blocks.len());
    blocks
}

fn blocks_in(language: &str) -> Vec<Block> {
    let mut blocks = blocks();
    blocks.retain(|block| block.language == language);
    assert!(!blocks.is_empty(), "{language}");
    blocks
}

/// The code within lines of prose, with its page.
fn spans() -> Vec<(String, String)> {
    let mut spans = Vec::new();
    for page in pages() {
        let (_, prose) = parts(&page);
        for line in prose.lines() {
            let code = line.split('`').skip(1).step_by(2);
            spans.extend(code.map(|code| (page.display().to_string(), code.to_owned())));
        }
    }
    assert!(spans.len() > 500, "{}", spans.len());
    spans
}

/// The commands of a script, each as its words. What stands in double quotes is one word, also where
/// a command is within.
fn commands(script: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words) = (Vec::<Vec<String>>::new(), Vec::<String>::new());
    let mut word: Option<String> = None;
    let mut chars = script.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().take_while(|char| *char != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(char) = chars.next().filter(|char| *char != '"') {
                    let is_escape = char == '\\';
                    word.push(if is_escape { chars.next().unwrap_or_default() } else { char });
                }
            }
            '\\' => match chars.next() {
                None | Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
            '#' if word.is_none() => while chars.next_if(|char| *char != '\n').is_some() {},
            '\n' | '|' | ';' | '&' | '<' | '>' | '(' | ')' => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            space if space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

/// The scripts of the pages, each with its place: blocks, and code in prose that calls a program.
fn scripts() -> Vec<(String, String)> {
    let mut scripts: Vec<(String, String)> =
        blocks_in("sh").into_iter().map(|block| (block.place, block.text)).collect();
    for block in blocks_in("console") {
        let lines = block.text.lines().filter_map(|line| line.strip_prefix("$ "));
        scripts.push((block.place, lines.collect::<Vec<_>>().join("\n")));
    }
    scripts.extend(spans());
    scripts
}

/// Parses YAML that may end in a key without a value.
fn yaml(block: &Block) -> Value {
    serde_saphyr::from_str(&block.text).unwrap_or_else(|error| panic!("{}: {error}", block.place))
}

#[test]
fn each_block_says_its_language() {
    for block in blocks() {
        let is_known = LANGUAGES.contains(&block.language.as_str());
        assert!(is_known, "{}: {:?} is none of {LANGUAGES:?}", block.place, block.language);
    }
}

#[test]
fn scripts_are_split_as_a_shell_splits_them() {
    for (script, expected) in [
        ("a b  # c", &[&["a", "b"][..]][..]),
        ("a 'b c' \"d e\"f", &[&["a", "b c", "d ef"]]),
        ("a \\\n  b\nc", &[&["a", "b"], &["c"]]),
        ("x=$(a | b) >c", &[&["x=$"], &["a"], &["b"], &["c"]]),
        ("a ''", &[&["a", ""]]),
    ] {
        assert_eq!(commands(script), expected, "{script}");
    }
}

#[test]
fn each_command_line_of_the_program_is_parsed() {
    let mut checked = 0;
    for (place, script) in scripts() {
        for words in commands(&script) {
            // The name alone names the program.
            if words[0] != PROGRAM || words.len() < 2 {
                continue;
            }
            checked += 1;
            // A variable of the shell stands for a number.
            let value =
                |word: &String| if word.starts_with('$') { "1".into() } else { word.into() };
            let args: Vec<OsString> = words.iter().map(value).collect();
            let is_command = cli::is_asked_for(&args);
            // A command alone is named, too.
            if is_command && words.len() == 2 {
                continue;
            }
            let error = if is_command {
                cli::definition().try_get_matches_from(args).err()
            } else {
                Flags::parse_from(args).err()
            };
            assert!(error.is_none(), "{place}: {words:?}: {}", error.unwrap());
        }
    }
    assert!(checked > 15, "{checked}");
}

/// The flags of a command and of its subcommands.
fn flags_of(command: &clap::Command, flags: &mut BTreeSet<String>) {
    flags
        .extend(command.get_arguments().filter_map(|flag| Some(format!("--{}", flag.get_long()?))));
    for subcommand in command.get_subcommands() {
        flags_of(subcommand, flags);
    }
}

#[test]
fn each_flag_that_prose_names_is_there() {
    let mut flags = BTreeSet::new();
    flags_of(&Flags::command(), &mut flags);
    flags_of(&cli::definition(), &mut flags);
    let mut others: BTreeSet<&str> = OTHER_FLAGS.iter().map(|(flag, _)| *flag).collect();
    let mut checked = 0;
    for (page, code) in spans() {
        let name = code.split(['=', ' ', '[']).next().unwrap();
        if name.len() > 2 && name.starts_with("--") && !flags.contains(name) {
            let is_of_another = OTHER_FLAGS.iter().any(|(flag, _)| *flag == name);
            assert!(is_of_another, "{page}: no program has `{code}`");
            others.remove(name);
        }
        checked += usize::from(flags.contains(name));
    }
    assert!(checked > 100, "{checked}");
    assert!(others.is_empty(), "no page names these flags of other programs any more: {others:?}");
}

#[test]
fn each_output_of_the_program_is_what_it_prints() {
    for block in blocks_in("console") {
        let mut lines = block.text.lines();
        let command = lines.next().and_then(|line| line.strip_prefix("$ ")).unwrap();
        let words = commands(command).remove(0);
        assert_eq!(words[0], PROGRAM, "{}", block.place);
        let output = Command::new(env!("CARGO_BIN_EXE_vault-secrets-reloader"))
            .args(&words[1..])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", block.place);
        let printed = String::from_utf8(output.stdout).unwrap();
        let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
        assert_eq!(lines.collect::<Vec<_>>(), printed, "{}", block.place);
    }
}

#[test]
fn make_is_called_with_targets_that_exist() {
    let makefile = read("Makefile");
    let mut checked = 0;
    for (place, script) in scripts() {
        for words in commands(&script).iter().filter(|words| words[0] == "make") {
            let is_target = |word: &&String| !word.starts_with('-') && !word.contains('=');
            for target in words[1..].iter().filter(is_target) {
                let is_there = makefile.contains(&format!("\n{target}: "))
                    || makefile.contains(&format!("\n{target}:\n"));
                assert!(is_there, "{place}: make {target}");
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn files_that_scripts_name_are_there() {
    let mut checked = 0;
    for block in blocks_in("sh") {
        for word in commands(&block.text).concat() {
            let path = word.rsplit('=').next().unwrap();
            if path.starts_with("deploy/") {
                assert!(root().join(path).exists(), "{}: {path}", block.place);
                checked += 1;
            }
        }
    }
    assert!(checked > 8, "{checked}");
}

#[test]
fn policies_grant_what_vault_knows() {
    let rule = Regex::new(r#"^path "[^"]+" *\{ capabilities = \[([^\]]+)\] \}( *#.*)?$"#).unwrap();
    for block in blocks_in("hcl") {
        for line in block.text.lines() {
            let found = rule.captures(line);
            let found = found.unwrap_or_else(|| panic!("{}: not a rule: {line}", block.place));
            for capability in found[1].split(',').map(|word| word.trim().trim_matches('"')) {
                assert!(CAPABILITIES.contains(&capability), "{}: {capability}", block.place);
            }
        }
    }
}

#[test]
fn templates_of_notifications_render_every_event() {
    for block in blocks_in("jinja") {
        let template = Template::compile(&block.place, block.text.clone());
        assert!(template.is_ok(), "{}: {:?}", block.place, template.err());
    }
}

#[test]
fn windows_can_be_read() {
    let mut checked = 0;
    for block in blocks_in("text") {
        if block.text.starts_with("allow ") || block.text.starts_with("deny ") {
            let rules = TimeRules::new(None, Some(&block.text));
            assert_eq!(first_error(&rules), None, "{}", block.place);
            checked += 1;
        }
    }
    assert!(checked > 0);
}

/// What a block of YAML is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Manifest,
    ServersFile,
    PathRules,
    RoleRules,
    WorkloadPart,
    ArgoPart,
    ChartValues,
}

/// Reads a block as what it is.
fn check_yaml(block: &Block, schema: &Value) -> Result<Kind, String> {
    let value = yaml(block);
    let map = value.as_object().ok_or("not a map")?;
    let keys: Vec<&str> = map.keys().map(String::as_str).collect();
    if map.contains_key("apiVersion") || map.contains_key("kind") {
        let has = |pointer| value.pointer(pointer).is_some_and(Value::is_string);
        let is_complete = ["/apiVersion", "/kind", "/metadata/name"].into_iter().all(has);
        return if is_complete { Ok(Kind::Manifest) } else { Err("not a manifest".to_owned()) };
    }
    match keys[..] {
        ["servers"] => {
            ServersFile::parse(&block.place, &block.text).map_err(|error| error.to_string())?;
            Ok(Kind::ServersFile)
        }
        ["rules"] if value.pointer("/rules/0/apiGroups").is_some() => {
            let fields = ["apiGroups", "resources", "verbs"];
            let is_list =
                |rule: &Value, field: &str| rule[field].as_array().is_some_and(|it| !it.is_empty());
            let rules = value["rules"].as_array().ok_or("rules is not a list")?;
            let are_complete =
                rules.iter().all(|rule| fields.into_iter().all(|field| is_list(rule, field)));
            if are_complete { Ok(Kind::RoleRules) } else { Err("a rule lacks a list".to_owned()) }
        }
        ["rules"] => {
            PathRulesFile::parse(&block.place, &block.text).map_err(|error| error.to_string())?;
            Ok(Kind::PathRules)
        }
        // A part of an Application of Argo CD. It names annotations within expressions.
        ["spec"] if value.pointer("/spec/ignoreDifferences").is_some() => {
            let mut names = block.text.split('"').filter(|name| name.contains("bank-vaults.io/"));
            let unknown = names.find(|name| !described().any(|known| known.name == *name));
            unknown.map_or(Ok(Kind::ArgoPart), |name| Err(format!("{name} is not written")))
        }
        ["spec"] => {
            let annotations = value.pointer("/spec/template/metadata/annotations");
            let annotations = annotations.and_then(Value::as_object).ok_or("no annotations")?;
            let is_read = |name: &String| described().any(|known| known.name == name);
            let unknown = annotations.keys().find(|name| !is_read(name));
            unknown.map_or(Ok(Kind::WorkloadPart), |name| Err(format!("{name} is not read")))
        }
        _ => check_values(&value, schema, schema, "values").map(|()| Kind::ChartValues),
    }
}

#[test]
fn yaml_is_read_as_what_it_is() {
    let schema: Value = serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).unwrap();
    let mut kinds = BTreeSet::new();
    for block in blocks_in("yaml") {
        let kind = check_yaml(&block, &schema);
        kinds.insert(kind.unwrap_or_else(|problem| panic!("{}: {problem}", block.place)));
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

#[test]
fn what_is_wrong_in_yaml_is_found() {
    let schema: Value = serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).unwrap();
    for (text, expected) in [
        ("kind: Role", "not a manifest"),
        ("servers: [{alias: a}]", "write servers"),
        ("rules: [{namespace: a}]", "namespaces"),
        ("rules: [{apiGroups: [\"\"], resources: [pods]}]", "lacks"),
        ("spec: {template: {metadata: {annotations: {a: b}}}}", "not read"),
        ("replicas: 2", "values.replicas"),
        ("status: {service: {colour: red}}", "values.status.service.colour"),
        ("replicaCount: many", "values.replicaCount"),
    ] {
        let block = Block {
            place: "a test".to_owned(),
            language: "yaml".to_owned(),
            text: text.to_owned(),
        };
        let problem = check_yaml(&block, &schema).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

/// Checks a value by what the schema of the chart uses of JSON Schema. A key that the schema does not
/// name is an error, also where the schema lets it pass.
fn check_values(value: &Value, schema: &Value, whole: &Value, place: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = whole.pointer(reference.trim_start_matches('#')).unwrap();
        return check_values(value, target, whole, place);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = choices.iter().any(|it| check_values(value, it, whole, place).is_ok());
        return if fits { Ok(()) } else { Err(format!("{place}: {value} fits no choice")) };
    }
    if !schema["type"].is_null() && !has_type(value, &schema["type"]) {
        return Err(format!("{place}: {value} is not {}", schema["type"]));
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        return Err(format!("{place}: {value} is none of {choices:?}"));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !Regex::new(pattern).unwrap().is_match(text)
    {
        return Err(format!("{place}: {text} does not match {pattern}"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check_values(item, &schema["items"], whole, &format!("{place}[{index}]"))?;
    }
    for (key, item) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{key}");
        let others = &schema["additionalProperties"];
        let of_key = match schema["properties"].get(key) {
            Some(of_key) => of_key,
            // A map of any keys, such as the objects of Kubernetes.
            None if schema["properties"].is_null() && !others.is_boolean() => others,
            None if others.is_object() => others,
            None => return Err(format!("{place} is not a value of the chart")),
        };
        check_values(item, of_key, whole, &place)?;
    }
    Ok(())
}

/// Whether a value has one of the types of a schema.
fn has_type(value: &Value, types: &Value) -> bool {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_it = |wanted: &Value| {
        wanted == name || (wanted == "integer" && (value.is_i64() || value.is_u64()))
    };
    types.as_array().map_or_else(|| is_it(types), |types| types.iter().any(is_it))
}
