#!/usr/bin/env python3
"""Breaks each rule of the decisions and of rollouts in turn, and shows that the model fails.

    tests/model/mutations.py [WORD ...]     only the mutations whose names contain one of the words

Works on a copy of the checkout. MODEL_HISTORIES (25,000 by default) and MODEL_SEED are passed on.
Exits with 1 if the model passes with a broken rule, and with 2 if the code that a mutation replaces
is not there any more."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLAN = "src/decide/plan.rs"
OBSERVATION = "src/decide/observation.rs"
ADMISSION = "src/rollouts/admission.rs"
WAVE = "src/rollouts/wave.rs"
INTERVAL = "src/rollouts/interval.rs"
LIMITS = "src/rollouts/limits.rs"
ROLLOUT = "src/rollouts/rollout.rs"

# The name of each mutation, its file, the code that is replaced, and the new code. Some rules are not
# here:
#
# - An observation from before a record of "missing" counts for nothing. A reload that breaks this rule
#   is needless only while another process knows more, which the judge excuses.
#   src/decide/plan/tests.rs has the rule.
# - The order of reloads, and that a look keeps the retry of the tick before it. Without them nothing
#   is missed or doubled, and no rollout is too many: the next full poll finds what a look dropped.
#   src/rollouts/order.rs and src/engine/agenda.rs have these rules.
# - An urgent secret waits for no others. A reload that waits needlessly is still done at the end.
#   src/rollouts/admission.rs has the rule.
# - A workload that others deployed since its reload is no member of the wave. If it counts, the rotation
#   waits for its rollout, or stops at its failure until that is mended; nothing is missed or doubled.
#   src/rollouts/admission.rs has the rule.
MUTATIONS = [
    (
        "the settle time is not added to a version",
        PLAN,
        "version.created.checked_add(self.skew.saturating_add(self.settle))",
        "version.created.checked_add(self.skew)",
    ),
    (
        "a freeze holds nothing",
        "src/engine/holds.rs",
        "return self.calendar.hold(levels, now);",
        "return None;",
    ),
    (
        "a freeze has no end",
        "src/rollouts/calendar.rs",
        "Ok(end) if end <= now => {}",
        "Ok(end) if false && end <= now => {}",
    ),
    (
        "a freeze does not count right before the PATCH",
        "src/engine/reloading.rs",
        "if self.holds.of(&workload, *is_urgent).is_some() {",
        "if false && self.holds.of(&workload, *is_urgent).is_some() {",
    ),
    (
        "Vault's clock counts as the API server's",
        PLAN,
        "version.created.checked_add(self.skew.saturating_add(self.settle))",
        "version.created.checked_add(self.settle)",
    ),
    (
        "a reload begins within the settle time",
        PLAN,
        "Verdict::Changed(_) if rules.is_settling(live) =>",
        "Verdict::Changed(_) if false && rules.is_settling(live) =>",
    ),
    (
        "a settling version is recorded",
        PLAN,
        "Observation::Live(version) if !rules.is_settling(version) => Some(version),",
        "Observation::Live(version) => Some(version),",
    ),
    (
        "a gone secret is no witness",
        PLAN,
        "if may_be_missing && observed.last_poll_gone >= case.template_first_poll {",
        "if false && may_be_missing && observed.last_poll_gone >= case.template_first_poll {",
    ),
    (
        "recorded as missing is no change",
        PLAN,
        "    if !workload.observed {\n        return Verdict::Wait;",
        "    if was_missing {\n        return Verdict::Same;\n    }\n"
        "    if !workload.observed {\n        return Verdict::Wait;",
    ),
    (
        "a version older than the workload by a day is known",
        PLAN,
        "    if !workload.observed {\n        return Verdict::Wait;",
        "    if live.created + SignedDuration::from_hours(24) < workload.created {\n"
        "        return Verdict::Same;\n    }\n"
        "    if !workload.observed {\n        return Verdict::Wait;",
    ),
    (
        "what was seen before the template is a witness",
        PLAN,
        "observed.last_poll_with_other_version >= case.template_first_poll;",
        "observed.last_poll_with_other_version > 0;",
    ),
    (
        "the record of another template counts",
        PLAN,
        "let is_of_this_template = recorded.is_some_and(|recorded| recorded.of_this_template);",
        "let is_of_this_template = recorded.is_some();",
    ),
    (
        "an older version is a restored storage at once",
        PLAN,
        "if observed.settled_since < case.template_first_poll {",
        "if false && observed.settled_since < case.template_first_poll {",
    ),
    (
        "a template that is not rolled out yet is not waited for",
        PLAN,
        "    if !workload.observed {\n        return Verdict::Wait;",
        "    if false {\n        return Verdict::Wait;",
    ),
    (
        "a reload that was taken back is fought for",
        PLAN,
        "} else if entry == Some(live) || has_copy(&|_| true) {",
        "} else if false && (entry == Some(live) || has_copy(&|_| true)) {",
    ),
    (
        "a reload for a former secret is fought for",
        PLAN,
        "            Verdict::Reverted => decision.reverted.push(Arc::clone(secret)),",
        "            Verdict::Reverted if is_former => {\n"
        "                cause = cause.max(Some(Cause::Found));\n"
        "                decision.changed.push(Arc::clone(secret));\n"
        "                all_patched = false;\n            }\n"
        "            Verdict::Reverted => decision.reverted.push(Arc::clone(secret)),",
    ),
    (
        "a former secret is forgotten",
        "src/model/workload.rs",
        "if earlier.former_secrets.is_empty() && earlier.secrets == self.secrets {",
        "if true || earlier.former_secrets.is_empty() && earlier.secrets == self.secrets {",
    ),
    (
        "a missing secret holds nothing",
        PLAN,
        "Some(_) if missing => Action::Hold(Hold::SecretGone),",
        "Some(_) if false && missing => Action::Hold(Hold::SecretGone),",
    ),
    (
        "a workload that is being deleted is reloaded",
        PLAN,
        "    if workload.deleting {",
        "    if false && workload.deleting {",
    ),
    (
        "a stripped record is never noticed",
        PLAN,
        "Some(_) if is_stripped => Action::Hold(Hold::Stripped),",
        "Some(_) if false && is_stripped => Action::Hold(Hold::Stripped),",
    ),
    (
        "an answer that may be stale is believed at once",
        OBSERVATION,
        "if first > times.settled {",
        "if false && first > times.settled {",
    ),
    (
        "the record of another object counts",
        "src/model/record.rs",
        "(self.uid == uid).then(",
        "(self.uid == uid || true).then(",
    ),
    # Waves. The judge counts the rollouts under way at each PATCH.
    (
        "rollouts under way take no room",
        WAVE,
        "} else if self.running + if is_earlier { 0 } else { self.earlier } >= width {",
        "} else if false && self.running + if is_earlier { 0 } else { self.earlier } >= width {",
    ),
    (
        "a reload that starts takes no room",
        ADMISSION,
        "wave.running += 1;",
        "wave.running += 0;",
    ),
    (
        "a version that was healthy nowhere goes to a share of the workloads",
        WAVE,
        "Some(if self.healthy == 0 { first } else { first.max(step.of(self.users)) })",
        "Some(first.max(step.of(self.users)))",
    ),
    (
        "only the workloads of the tick count",
        "src/engine/admitting.rs",
        "let all = self.index.workloads();",
        "let all = in_scope.to_vec();",
    ),
    # The rollout of a workload that gives no signal never ends, so the others would wait for ever. The
    # judge finds that their hold is not true.
    (
        "a silent workload takes room",
        WAVE,
        "            RolloutState::Failed(_) | RolloutState::Silent(_) | RolloutState::Degraded => {}",
        "            RolloutState::Silent(_) => self.running += 1,\n"
        "            RolloutState::Failed(_) | RolloutState::Degraded => {}",
    ),
    # The judge knows when a member failed, and which failures tell nothing about the version.
    (
        "a failed rollout stops nothing",
        WAVE,
        "if self.failed > 0 {",
        "if false && self.failed > 0 {",
    ),
    (
        "each failure is excused",
        ADMISSION,
        "let is_excused = recorded.was_unhealthy || workload.continue_after == Some(workload.count);",
        "let is_excused = true;",
    ),
    (
        "each reload is one of a workload that was not healthy",
        ROLLOUT,
        "        RolloutState::Healthy | RolloutState::Silent(_) => false,",
        "        RolloutState::Healthy | RolloutState::Silent(_) => true,",
    ),
    (
        "who said once to go on says it for ever",
        ADMISSION,
        "workload.continue_after == Some(workload.count)",
        "workload.continue_after.is_some()",
    ),
    # Histories that keep their failures to the end show a hold that is not true.
    (
        "who says to go on is not heard",
        ADMISSION,
        "workload.continue_after == Some(workload.count)",
        "workload.continue_after == Some(u64::MAX)",
    ),
    (
        "a failure with an earlier version stops the later one",
        ADMISSION,
        "Some(version) if Some(version) == live => Use::Reloaded(member),",
        "Some(_) if live.is_some() => Use::Reloaded(member),",
    ),
    (
        "a rollout that hangs is under way for ever",
        ROLLOUT,
        "(Progress::Running, Some(Some(true))) => RolloutState::Failed(RolloutFailure::TimedOut),",
        "(Progress::Running, Some(Some(true))) => RolloutState::Running,",
    ),
    # The other rules for rollouts.
    (
        "the owner of a secret is not heard",
        ADMISSION,
        "if self.is_any_held(changed) {",
        "if false && self.is_any_held(changed) {",
    ),
    (
        "there is no shortest interval",
        ADMISSION,
        "        if left.is_some() {",
        "        if false && left.is_some() {",
    ),
    (
        "the interval never grows",
        INTERVAL,
        "if is_in_row { recorded.streak.saturating_add(1) } else { 0 }",
        "if false && is_in_row { recorded.streak.saturating_add(1) } else { 0 }",
    ),
    (
        "there is no limit in a namespace",
        LIMITS,
        "let per_namespace = limits.per_namespace.unwrap_or(usize::MAX);",
        "let per_namespace = usize::MAX;",
    ),
    (
        "there is no limit in all",
        LIMITS,
        "here < most_here && limits.in_all.is_none_or(|most| in_all() < most)",
        "(true || in_all() < most_here) && here < per_namespace",
    ),
]


# As `make test` builds the model, but what a mutation leaves as it is is not compiled again.
PROFILE = [
    "--release",
    "--config=profile.release.incremental=true",
    "--config=profile.release.package.vault-secrets-reloader.opt-level=1",
]


def run_model(copy: pathlib.Path, target: pathlib.Path) -> bool:
    """Builds and runs the model in the copy. Returns whether it passes."""
    env = dict(os.environ, CARGO_TARGET_DIR=str(target))
    env.setdefault("MODEL_HISTORIES", "25000")
    cargo = [env.get("CARGO", "cargo"), "test", "--quiet", *PROFILE, "--test", "model"]
    build = subprocess.run([*cargo, "--no-run"], cwd=copy, env=env, capture_output=True, text=True)
    if build.returncode != 0:
        sys.exit(f"the mutation does not compile:\n{build.stderr}")
    test = subprocess.run(cargo, cwd=copy, env=env, capture_output=True, text=True)
    return test.returncode == 0


def main() -> int:
    words = sys.argv[1:]
    chosen = [m for m in MUTATIONS if not words or any(word in m[0] for word in words)]
    for name, file, old, _ in chosen:
        if (ROOT / file).read_text().count(old) != 1:
            print(f"{name}: {file} does not contain this once:\n{old}")
            return 2
    unseen = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = pathlib.Path(folder) / "copy"
        # The dependencies are compiled already, if the checkout was tested.
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
        tracked = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        for file in filter(None, tracked.stdout.split("\0")):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, copy / file)
        if not run_model(copy, target):
            print("the model fails without a mutation")
            return 1
        for name, file, old, new in chosen:
            whole = (copy / file).read_text()
            (copy / file).write_text(whole.replace(old, new))
            is_seen = not run_model(copy, target)
            (copy / file).write_text(whole)
            print(f"{'seen' if is_seen else 'NOT SEEN'}: {name}", flush=True)
            if not is_seen:
                unseen.append(name)
    print(f"{len(chosen) - len(unseen)} of {len(chosen)} broken rules are seen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
