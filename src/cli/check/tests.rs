//! Tests the report on manifests.

use super::*;
use crate::cli::print;
use crate::references::path_rules::{PathRules, Rule, RuleText};
use crate::references::servers::{Address, UndeclaredAddress, VaultServer};

const WEB: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  template:
    metadata:
      annotations:
        secrets-reloader.security.bank-vaults.io/reload-on-secret-change: "true"
        secrets-webhook.security.bank-vaults.io/vault-from-path: "secret/data/all,secret/data/old#1"
    spec:
      initContainers:
        - name: init
          env:
            - name: A
              value: vault:secret/data/init#k
      containers:
        - name: app
          env:
            - name: A
              value: vault:secret/data/mysql#k
            - name: B
              value: vault:secret/data/mysql
            - name: URL
              value: >-
                x${vault:secret/data/a#u}:${vault:secret/data/b#p#2}
            - name: PLAIN
              value: plain
"#;

fn checked(text: &str) -> Report {
    checked_all(&[("web.yaml", text)], ReadableSources::default())
}

fn checked_all(files: &[(&str, &str)], readable: ReadableSources) -> Report {
    let mut manifests = Manifests::default();
    for (file, text) in files {
        manifests.add(file, text);
    }
    manifests.check(readable, &Servers::default())
}

/// Returns the path or the reason of each reference, and its line.
fn found(workload: &Checked) -> Vec<(&str, u64)> {
    workload
        .references
        .iter()
        .map(|found| {
            let reason = found.remark.map(|remark| remark.reason);
            (found.path.as_deref().or(reason).unwrap(), found.at.line)
        })
        .collect()
}

fn reasons(workload: &Checked) -> Vec<&str> {
    workload.remarks.iter().map(|remark| remark.reason).collect()
}

#[test]
fn each_reference_is_said_with_its_line() {
    let report = checked(WEB);
    assert!(report.problems.is_empty());
    let [web] = &report.workloads[..] else { panic!("{report:?}") };
    assert_eq!(
        (web.workload.as_str(), web.at.line, web.reloaded),
        ("shop/Deployment/web", 1, true)
    );
    assert_eq!(
        found(web),
        [
            ("secret/data/all", 11),
            ("Pinned", 11),
            ("secret/data/init", 17),
            ("secret/data/mysql", 22),
            ("NoKey", 24),
            ("secret/data/a", 27),
            ("Pinned", 27),
        ]
    );
    assert_eq!(report.warnings(), 1);
    assert_eq!(web.references[2].origin, "variable A of container init");
}

#[test]
fn why_a_workload_is_not_reloaded() {
    let current =
        r#"        secrets-reloader.security.bank-vaults.io/reload-on-secret-change: "true""#;
    let annotation = current.trim();
    let skip = "secrets-webhook.security.bank-vaults.io/mutate: skip";
    let on_workload = WEB
        .replace(&format!("{current}\n"), "")
        .replace("  namespace: shop", &format!("  annotations: {{{annotation}}}"));
    let nothing = WEB.replace("vault:", "x:").replace("vault-from-path", "x");
    let one = WEB.split("          env:").next().unwrap();
    let pinned = format!("{one}          env: [{{name: A, value: 'vault:a#b#1'}}]\n")
        .replace("vault-from-path", "x")
        .replace("initContainers", "containers");
    let cases = [
        (WEB.replace(&format!("{current}\n"), ""), "NotOptedIn", 0),
        (WEB.replace("\"true\"", "\"false\""), "NotOptedIn", 0),
        (WEB.replace("\"true\"", "\"yes\""), "OptInNotTrue", 1),
        (WEB.replace("\"true\"", "true"), "OptInNotTrue", 1),
        (on_workload, "OptInOnWorkload", 1),
        (WEB.replace(annotation, &format!("{annotation}\n        {skip}")), "NothingWatched", 0),
        (WEB.replace("kind: Deployment", "kind: Job"), "KindNotReloaded", 1),
        (WEB.replace("apps/v1", "argoproj.io/v1alpha1"), "KindNotReloaded", 1),
        (nothing, "NothingWatched", 1),
        (pinned, "NothingWatched", 0),
    ];
    for (text, reason, warnings) in cases {
        let report = checked(&text);
        let [workload] = &report.workloads[..] else { panic!("{reason}: {report:?}") };
        assert_eq!(reasons(workload), [reason], "{text}");
        assert!(!workload.reloaded && workload.references.iter().all(|found| !found.watched));
        let of_workload = workload.remarks.iter().filter(|remark| remark.warning).count();
        assert_eq!(of_workload, warnings, "{reason}");
    }
}

#[test]
fn a_namespace_that_no_request_could_name_is_said() {
    let line = "        secrets-webhook.security.bank-vaults.io/vault-namespace: ";
    let with = |name: &str| {
        WEB.replace("    spec:\n      init", &format!("{line}{name}\n    spec:\n      init"))
    };
    let team = checked(&with("team/a"));
    assert_eq!(team.workloads[0].references[0].namespace.as_deref(), Some("team/a"));
    let bad = checked(&with(r#""a\nb""#));
    assert_eq!(reasons(&bad.workloads[0]), ["BadNamespace"]);
    assert!(!bad.workloads[0].reloaded);
}

#[test]
fn what_has_nothing_to_do_with_secrets_is_not_mentioned() {
    for text in [
        "kind: ConfigMap\ndata: {a: 'vault:secret/data/a#k'}\n",
        "kind: Deployment\napiVersion: apps/v1\nspec: {template: {spec: {containers: []}}}\n",
        "- 1\n- 2\n",
        "just a text",
        "",
    ] {
        assert_eq!(checked(text).workloads, [], "{text:?}");
        assert_eq!(checked(text).problems, [], "{text:?}");
    }
}

#[test]
fn pods_are_found_wherever_they_are() {
    let pods = "{containers: [{name: c, env: [{name: X, value: 'vault:secret/data/a#k'}]}]}";
    for text in [
        format!("kind: Pod\nmetadata: {{name: x}}\nspec: {pods}\n"),
        format!(
            "kind: CronJob\napiVersion: batch/v1\nmetadata: {{name: x}}\nspec: {{jobTemplate: \
             {{spec: {{template: {{spec: {pods}}}}}}}}}\n"
        ),
        format!(
            "kind: Service\napiVersion: serving.knative.dev/v1\nmetadata: {{name: x}}\n\
                 spec: {{template: {{spec: {pods}}}}}\n"
        ),
    ] {
        let report = checked(&text);
        assert_eq!(report.workloads.len(), 1, "{text}");
        assert_eq!(reasons(&report.workloads[0]), ["KindNotReloaded"]);
        assert_eq!((report.workloads[0].references.len(), report.warnings()), (1, 0));
    }
}

#[test]
fn lists_and_streams_and_json_are_read() {
    let one = yaml::read(WEB).unwrap()[0].to_json();
    let list = serde_json::json!({ "kind": "List", "apiVersion": "v1", "items": [one, one] });
    let mut kindless = one.clone();
    kindless.as_object_mut().unwrap().remove("kind");
    let of_kind = serde_json::json!({ "kind": "DeploymentList", "items": [kindless] });
    for (text, count) in [
        (list.to_string(), 2),
        (serde_json::to_string_pretty(&list).unwrap(), 2),
        (of_kind.to_string(), 1),
        (format!("---\n{WEB}---\n---\n{WEB}"), 2),
    ] {
        let report = checked(&text);
        assert_eq!(report.problems, [], "{text}");
        assert_eq!(report.workloads.len(), count, "{text}");
        assert!(report.workloads.iter().all(|workload| workload.reloaded));
    }
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("a/web.yaml", WEB);
    write("b.yml", "spec:\n  replicas: {{ .Values.replicas }}\n  a: [\n");
    write("notes.txt", "vault:");
    write(".hidden/web.yaml", WEB);
    let mut manifests = Manifests::default();
    manifests.read(folder.path(), io::empty());
    manifests.read(&folder.path().join("missing.yaml"), io::empty());
    manifests.read(Path::new("-"), WEB.as_bytes());
    let report = manifests.check(ReadableSources::default(), &Servers::default());
    let files: Vec<_> = report.workloads.iter().map(|workload| &*workload.at.file).collect();
    let web = folder.path().join("a/web.yaml");
    assert_eq!(files, [&*web.to_string_lossy(), "-"]);
    let [template, missing] = &report.problems[..] else { panic!("{:?}", report.problems) };
    assert!(template.line.is_some() && template.message.contains("helm template"), "{template}");
    assert!(missing.to_string().contains("missing.yaml: "), "{missing}");
}

#[test]
fn the_table_is_for_people() {
    let text = print::table(&checked(WEB));
    assert!(text.starts_with("shop/Deployment/web  (web.yaml:1)\n"), "{text}");
    assert!(text.contains("  watched secret/data/mysql "), "{text}");
    assert!(text.contains("  warning NoKey: no key: write it as PATH#KEY "), "{text}");
    assert!(text.contains(" web.yaml:24 variable B of container app\n"), "{text}");
    assert!(text.ends_with("1 workload reloaded, 0 not; 4 secrets; 1 warning\n"), "{text}");
}

#[test]
fn json_is_one_document() {
    let json: serde_json::Value = serde_json::from_str(&print::json(&checked(WEB))).unwrap();
    assert_eq!(json["warnings"], 1);
    let web = &json["workloads"][0];
    assert_eq!((&web["workload"], &web["line"]), (&"shop/Deployment/web".into(), &1.into()));
    let no_key = web["references"].as_array().unwrap().iter().find(|r| r["reason"] == "NoKey");
    assert_eq!(no_key.unwrap()["line"], 24);
    assert_eq!(no_key.unwrap()["path"], serde_json::Value::Null);
}

#[test]
fn workflow_commands_hold_what_is_to_be_looked_at() {
    let files = [("a,b:c.yaml", WEB), ("-", WEB), ("bad.yaml", "a: [\n")];
    let report = checked_all(&files, ReadableSources::default());
    let text = print::github(&report);
    assert!(text.contains("::error file=bad.yaml,line="), "{text}");
    assert!(text.contains("::warning file=a%2Cb%3Ac.yaml,line=24,title=NoKey::shop/Deployment/web, variable B of container app: no key: "), "{text}");
    assert!(text.contains("::warning title=NoKey::"), "{text}");
    assert_eq!(text.matches("::warning").count(), 2);
}

const WITH_SOURCES: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      annotations:
        secrets-reloader.security.bank-vaults.io/reload-on-secret-change: "true"
    spec:
      containers:
        - name: app
          envFrom:
            - configMapRef:
                name: refs
            - secretRef:
                name: tokens
          env:
            - name: X
              valueFrom:
                configMapKeyRef:
                  name: refs
                  key: NONE
            - name: Y
              valueFrom:
                secretKeyRef:
                  name: elsewhere
                  key: plain
            - name: Z
              valueFrom:
                configMapKeyRef:
                  name: elsewhere
                  key: z
"#;

const SOURCES: &str = r"apiVersion: v1
kind: ConfigMap
metadata:
  name: refs
  namespace: shop
data:
  PLAIN: x
  A: vault:secret/data/a#k
---
apiVersion: v1
kind: Secret
metadata:
  name: tokens
  labels: {security.banzaicloud.io/mutate: skip}
data:
  OLD: dmF1bHQ6c2VjcmV0L2RhdGEvYiNr
stringData:
  NEW: vault:secret/data/c#k
";

#[test]
fn sources_among_the_manifests_are_read() {
    let files = [("web.yaml", WITH_SOURCES), ("sources.yaml", SOURCES)];
    let report = checked_all(&files, ReadableSources::default());
    let [web] = &report.workloads[..] else { panic!("{report:?}") };
    assert!(web.reloaded);
    let expected =
        [("SourceNotRead", 1), ("SourceNotGiven", 1), ("KeyMissing", 1), ("secret/data/a", 8)];
    assert_eq!(found(web), expected);
    assert_eq!(web.references[3].origin, "variable A of container app, key A of ConfigMap refs");
    assert_eq!(web.references[3].at.file, "sources.yaml");
    assert_eq!(report.warnings(), 1);

    let with_secrets = ReadableSources { secrets: true, ..ReadableSources::default() };
    let report = checked_all(&files, with_secrets);
    let found = found(&report.workloads[0]);
    assert!(found.contains(&("secret/data/b", 16)), "{found:?}");
    assert!(found.contains(&("secret/data/c", 18)), "{found:?}");
    assert_eq!(found.iter().filter(|(what, _)| *what == "SourceNotGiven").count(), 2);
}

#[test]
fn a_source_of_another_namespace_is_another_one() {
    let other = WITH_SOURCES.replace("  name: web", "  name: web\n  namespace: other");
    let report = checked_all(&[("a", &other), ("b", SOURCES)], ReadableSources::default());
    let named = report.workloads[0].references.iter().filter(|found| found.path.is_some());
    assert_eq!(named.count(), 0);
}

#[test]
fn a_workload_is_of_the_server_that_its_address_means() {
    let declared = |name: &str, address: &str| VaultServer {
        name: name.into(),
        addresses: Address::parse(address).into_iter().collect(),
        namespace: None,
    };
    let checked_at = |address: &str, undeclared| {
        let all = "vault-from-path:";
        let text = WEB.replace(
            all,
            &format!(
                "vault-addr: {address}\n        secrets-webhook.security.bank-vaults.io/{all}"
            ),
        );
        let mut manifests = Manifests::default();
        manifests.add("web.yaml", &text);
        let default = declared("default", "https://vault:8200");
        let others = vec![declared("team-b", "https://b:8200")];
        let servers = Servers::new([vec![default], others].concat(), undeclared).unwrap();
        manifests.check(ReadableSources::default(), &servers)
    };
    for undeclared in [UndeclaredAddress::Default, UndeclaredAddress::Refused] {
        let report = checked_at("https://vault:8200/", undeclared);
        let web = &report.workloads[0];
        assert!(web.reloaded && web.remarks.is_empty());
        assert!(web.references.iter().all(|found| found.server.is_none()));
        let report = checked_at("https://b:8200", undeclared);
        let web = &report.workloads[0];
        assert!(web.reloaded && web.remarks.is_empty());
        let on_b = |found: &Finding| found.server.as_deref() == Some("team-b");
        assert!(web.references.iter().all(|found| on_b(found) == found.path.is_some()));
        assert!(print::table(&report).contains("secret/data/a on server team-b"));
    }
    let report = checked_at("https://elsewhere:8200", UndeclaredAddress::Default);
    let web = &report.workloads[0];
    assert_eq!((web.reloaded, reasons(web)), (true, vec!["AddressNotDeclared"]));
    let warnings = report.warnings();
    let report = checked_at("https://elsewhere:8200", UndeclaredAddress::Refused);
    let web = &report.workloads[0];
    assert_eq!((web.reloaded, reasons(web)), (false, vec!["AddressRefused"]));
    assert!(web.references.iter().all(|found| !found.watched));
    assert_eq!(report.warnings(), warnings);
}

#[test]
fn a_path_that_no_rule_allows_to_the_namespace_is_not_watched() {
    let checked_by = |paths: &[&str], text: &str, namespace: &str| {
        let rule = RuleText {
            namespaces: vec!["shop".to_owned()],
            paths: Some(paths.iter().map(|path| (*path).to_owned()).collect()),
            ..RuleText::default()
        };
        let rules = PathRules::new(vec![Rule::new(&rule).unwrap()]);
        let mut manifests = Manifests::in_namespace(namespace.to_owned());
        manifests.add("web.yaml", text);
        manifests.check(ReadableSources::default(), &Servers::default().with_path_rules(rules))
    };
    let refused = |report: &Report| {
        let all = report.workloads[0].references.iter();
        let refused = all.filter(|it| it.remark.is_some_and(|it| it.reason == "PathRefused"));
        let refused: Vec<_> = refused.filter_map(|found| found.path.clone()).collect();
        assert!(report.workloads[0].references.iter().all(|it| !it.watched || it.remark.is_none()));
        (report.workloads[0].reloaded, refused.join(" "))
    };
    let report = checked_by(&["secret/data/*"], WEB, "default");
    assert_eq!(refused(&report), (true, String::new()));
    let report = checked_by(&["secret/data/m*", "secret/data/a*"], WEB, "default");
    assert_eq!(refused(&report), (true, "secret/data/init".to_owned()));
    assert!(print::table(&report).contains("PathRefused"));
    let report = checked_by(&["other/**"], WEB, "default");
    let all = "secret/data/all secret/data/init secret/data/mysql secret/data/a";
    assert_eq!(refused(&report), (false, all.to_owned()));
    assert!(report.warnings() >= 4);
    // A workload that does not opt in gets no warning.
    let out = WEB.replace("reload-on-secret-change: \"true\"", "other: x");
    let report = checked_by(&["other/**"], &out, "default");
    assert_eq!(report.warnings(), checked(&out).warnings());
    // The namespace of a manifest that names none.
    let without = WEB.replace("  namespace: shop\n", "");
    let is_reloaded = |namespace| refused(&checked_by(&["**"], &without, namespace)).0;
    assert!(is_reloaded("shop") && !is_reloaded("default"));
}

#[test]
fn a_name_with_a_line_break_does_not_break_the_lines() {
    let text = WEB.replace("name: app", r#""name": "a\nb\u001b""#);
    let table = print::table(&checked(&text));
    assert_eq!(table.lines().count(), print::table(&checked(WEB)).lines().count());
    assert!(table.contains(r"variable B of container a\nb\u{1b}"), "{table}");
}

#[test]
fn an_encrypted_secret_is_none_that_is_given() {
    let sources = SOURCES.replace("kind: Secret", "kind: Secret\nsops: {version: 3.9.0}");
    let sources = sources.replace("dmF1bHQ6c2VjcmV0L2RhdGEvYiNr", "ENC[AES256_GCM,data:x]");
    let files = [("web.yaml", WITH_SOURCES), ("sources.yaml", &*sources)];
    let with_secrets = ReadableSources { secrets: true, ..ReadableSources::default() };
    let report = checked_all(&files, with_secrets);
    let found = found(&report.workloads[0]);
    assert!(!found.iter().any(|(what, _)| *what == "SourceMalformed"), "{found:?}");
}

#[test]
fn of_too_many_secrets_those_that_the_controller_leaves_are_not_watched() {
    let paths = (0..MOST_SECRETS + 5).map(|number| format!("secret/data/{number:05}"));
    let paths = paths.collect::<Vec<_>>().join(",");
    let text = WEB.replace("secret/data/all,secret/data/old#1", &paths);
    let report = checked(&text);
    let [web] = &report.workloads[..] else { panic!("one workload") };
    let watched: BTreeSet<_> =
        web.references.iter().filter(|found| found.watched).map(|found| &found.path).collect();
    assert_eq!(watched.len(), MOST_SECRETS);
    let remarks: Vec<_> = web.remarks.iter().map(|remark| remark.reason).collect();
    assert_eq!(remarks, ["TooManySecrets"]);
    assert_eq!(checked(WEB).workloads[0].remarks, []);
}
