// The page reads the API at /v1 and shows the answers. It changes nothing.
//
// Texts of the API are shown by the functions of parts.js alone, as text and never as markup.

import {
  ALL, OPEN, ROTATIONS, WORKLOADS, ago, chip, facts, hashOf, inWords, lateness, make, makePages,
  makeTable, makeTiles, number, plural, renewAges, replace, secretHash, secretNote, setClock,
  setText, sum, timeOf, workloadHash, worstFirst,
} from "./parts.js";

/** The time between two refreshes, and the longest time after errors, in milliseconds. */
const PERIOD = 5_000;
const LONGEST_PAUSE = 60_000;
/** The longest time of a request. */
const ANSWER_WITHIN = 10_000;
/** The pause after the last key in a filter, until the list is read. */
const TYPING = 300;
/** The number of rows of a page. */
const ROWS = 50;
/** The rows of the list of a secret's workloads, which are sorted here. */
const USERS = 500;
const TOKEN = "vault-secrets-reloader-token";

const byId = (id) => document.getElementById(id);
const view = byId("view");

// ---------------------------------------------------------------- routes

/** What the hash of the address means: the view and its parameters. */
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const name = Object.hasOwn(VIEWS, path) ? path : "rotations";
  return { name, params: new URLSearchParams(query ?? "") };
}

// ---------------------------------------------------------------- the API

/** An answer that is no success. */
class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

let tokenInMemory = "";

function token() {
  try {
    return sessionStorage.getItem(TOKEN) ?? tokenInMemory;
  } catch {
    return tokenInMemory;
  }
}

function keepToken(text) {
  tokenInMemory = text;
  try {
    if (text) sessionStorage.setItem(TOKEN, text);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    // The browser keeps nothing for pages; the token lives as long as this page.
  }
}

async function ask(path, signal) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const limit = AbortSignal.timeout(ANSWER_WITHIN);
  const answer = await fetch(path, {
    headers,
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.any([signal, limit]),
  });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new Refusal(answer.status, body.code ?? "", body.message ?? `status ${answer.status}`);
  }
  return body;
}

// ---------------------------------------------------------------- views

const heading = (text) => make("h2", { tabindex: "-1" }, text);

/** A list with tiles, filters, a table and pages. */
function listView({ name, title, states, usual, columns, query, counts, row, caption, none }) {
  let tiles, table, pages, fields;
  const read = () => {
    const state = fields.state.value === usual ? "" : fields.state.value;
    return hashOf(name, { search: fields.search.value.trim(), state, in: fields.in.value.trim() });
  };
  let typing = 0;
  let isApplied = false;
  const apply = (isTyped) => {
    clearTimeout(typing);
    // The user may have left the list since the last key.
    if (present.name !== name) return;
    if (read() === hashOf(name, Object.fromEntries(route().params))) return;
    if (isTyped) history.replaceState(null, "", read());
    else history.pushState(null, "", read());
    isApplied = true;
    navigate();
    isApplied = false;
  };
  return {
    title: () => title,
    build() {
      tiles = makeTiles(`${title} by state`, name, states);
      const plain = { autocomplete: "off", spellcheck: "false" };
      const option = (value, text) => make("option", { value }, text);
      fields = {
        search: make("input", { id: "search", type: "search", maxlength: 200, ...plain }),
        state: make("select", { id: "state" }, option(OPEN, "Not complete"),
          option(ALL, "All states"),
          ...Object.entries(states).map(([state, [, , word]]) => option(state, word))),
        in: make("input", { id: "in", type: "text", maxlength: 63, ...plain }),
      };
      const labels = { search: "Search by name", state: "State", in: "Kubernetes namespace" };
      const form = make("form", { class: "filters", role: "search" });
      for (const [id, field] of Object.entries(fields)) {
        const style = id === "search" ? "field wide" : "field";
        form.append(make("div", { class: style }, make("label", { for: id }, labels[id]), field));
        field.addEventListener("input", () => {
          clearTimeout(typing);
          typing = setTimeout(() => apply(true), TYPING);
        });
      }
      fields.state.addEventListener("change", () => apply(false));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        apply(true);
      });
      table = makeTable(columns);
      pages = makePages();
      view.replaceChildren(heading(title), tiles.list, form, table.sheet, pages.pages);
    },
    enter(params) {
      // The fields have what the user typed.
      if (isApplied) return;
      const values = {
        search: params.get("search") ?? "",
        state: params.get("state") ?? usual,
        in: params.get("in") ?? "",
      };
      for (const [id, field] of Object.entries(fields)) field.value = values[id];
    },
    path(params) {
      const state = params.get("state") ?? usual;
      const open = Object.keys(states).filter((other) => other !== "complete").join(",");
      const asked = {
        limit: ROWS,
        state: { [OPEN]: open, [ALL]: "" }[state] ?? state,
        search: params.get("search") ?? "",
        [query]: params.get("in") ?? "",
        continue: params.get("after") ?? "",
      };
      const kept = Object.entries(asked).filter(([, value]) => value !== "");
      return `/v1/${name}?${new URLSearchParams(kept)}`;
    },
    overview(overview, params) {
      tiles.update(overview[counts], params.get("state") ?? "");
    },
    update(page, overview, params) {
      pages.update(name, params, page);
      const word = title.toLowerCase();
      const isFiltered = params.get("search") || params.get("in");
      let empty = `No ${word} match the filters.`;
      if ((params.get("state") ?? usual) === OPEN && !isFiltered) {
        empty = `All ${word} are complete. To see them, choose “All states”.`;
      }
      if (overview && sum(overview[counts]) === 0) empty = none;
      table.update(caption(page.total), page.items.map(row), empty);
      // The user comes back from a detail.
      const left = [...table.body.rows].find((one) => one.dataset.key === comingFrom);
      if (left) left.querySelector("a")?.focus();
      if (comingFrom && !left) view.querySelector("h2").focus();
      comingFrom = "";
    },
  };
}

/** Whether the old version can be revoked: the answer in words. */
function revocation({ state, revocable, version, workloads }) {
  const all = sum(workloads);
  const complete = workloads.complete ?? 0;
  const silent = workloads.silent ?? 0;
  const named = version ? `version ${version.number}` : "no version";
  if (revocable && state === "complete" && version) {
    const rest = silent ? `, and ${plural(silent, "workload")} without pods` : "";
    const share = `${number.format(complete)} of ${plural(all, "workload")}`;
    return ["yes", "Yes.", `${share} run with ${named}${rest}.`];
  }
  const rest = number.format(Math.max(0, all - complete - silent));
  const lacking = `${rest} of ${plural(all, "workload")} do not run with ${named}`;
  const reasons = {
    running: `${lacking} yet. Reloads are under way, or follow.`,
    stopped: `The rotation has stopped, and ${lacking}. The messages below say why, and what to`
      + " do.",
    held: `Reloads are held, and ${lacking}. The messages below say why.`,
    missing:
      "The secret is missing, or its latest version is deleted. Write a new version to Vault.",
    unknown: "Vault does not answer for the secret. Look at the controller's log.",
  };
  const sentences = [reasons[state]];
  if (silent) {
    sentences.push(`${number.format(silent)} of ${plural(all, "workload")} are silent: they do not`
      + " tell when all their pods are replaced. Look at their pods: pods from before the reload"
      + " still use the old version.");
  }
  return ["no", "Not yet.", sentences.filter(Boolean).join(" ")];
}

function backLink(name, text) {
  const hash = listHash.startsWith(`#/${name}`) ? listHash : `#/${name}`;
  return make("p", { class: "back" }, make("a", { href: hash, id: "back" }, `← ${text}`));
}

const PROGRESS_COLUMNS = [["State", ""], ["Since", "minor"], ["Message", ""]];
const progressCells = (progress) => [
  ["chip", "workloads", progress.state],
  ["time", progress.since ?? null],
  ["reason", progress.reason ?? "", progress.message],
];

function secretView() {
  let answer, about, table, pages;
  return {
    tab: "rotations",
    title: (params) => params.get("path") ?? "",
    build(params) {
      answer = make("div", { class: "answer", hidden: "" });
      about = make("div");
      table = makeTable([["Workload", ""], ...PROGRESS_COLUMNS]);
      pages = makePages();
      const title = heading(params.get("path") ?? "");
      view.replaceChildren(backLink("rotations", "All rotations"), title, answer, about,
        table.sheet, pages.pages);
    },
    path(params) {
      const asked = { limit: USERS, path: params.get("path") ?? "", server: params.get("server"),
        // The root namespace has an empty name.
        namespace: params.get("namespace") ?? (params.get("server") === null ? null : ""),
        continue: params.get("after") };
      const kept = Object.entries(asked).filter(([, value]) => value !== null);
      return `/v1/secret?${new URLSearchParams(kept)}`;
    },
    update(secret, overview, params) {
      const [code, yes, sentence] = revocation(secret);
      answer.hidden = false;
      answer.dataset.answer = code;
      replace(answer, [yes, sentence], () => [make("p", {},
        make("strong", {}, `Can the old version be revoked? ${yes}`), sentence)]);
      const { state, version, readAt } = secret;
      replace(about, [secret.secret, state, version, readAt], () => [facts([
        ["State", chip(ROTATIONS, state)],
        ["Vault", secretNote(secret.secret)],
        ["Version", version
          ? make("span", {}, `${version.number}, created `, timeOf(version.created))
          : "none: Vault has shown none yet"],
        ["Last read", readAt ? timeOf(readAt) : "never"],
      ])]);
      const counted = inWords(WORKLOADS, secret.workloads);
      table.update(`${plural(secret.users.total, "workload")} of this secret: ${counted}`,
        worstFirst(secret.users.items).map((user) => ({
          key: user.workload,
          cells: [["link", workloadHash(user.workload), user.workload], ...progressCells(user)],
        })), "No workload refers to this secret.");
      pages.update("secret", params, secret.users);
    },
  };
}

function workloadView() {
  let about, secrets, findings;
  return {
    tab: "workloads",
    title: (params) => params.get("name") ?? "",
    build(params) {
      about = make("div");
      secrets = makeTable([["Secret", ""], ["Version", "minor"], ...PROGRESS_COLUMNS]);
      findings = makeTable([["Finding", ""], ["Message", ""]]);
      const title = heading(params.get("name") ?? "");
      view.replaceChildren(backLink("workloads", "All workloads"), title, about, secrets.sheet,
        make("h2", {}, "Findings"), findings.sheet);
    },
    path: (params) => `/v1/workload?${new URLSearchParams({ name: params.get("name") ?? "" })}`,
    update(workload) {
      const { reloads, lastReload } = workload;
      replace(about, [reloads, lastReload], () => [facts([
        ["Reloads", number.format(reloads)],
        ["Last reload", lastReload ? timeOf(lastReload) : reloads ? "not known" : "never"],
      ])]);
      secrets.update(`${plural(workload.secrets.length, "secret")} of this workload`,
        workload.secrets.map((used) => ({
          key: secretHash(used.secret),
          cells: [["link", secretHash(used.secret), used.secret.path, secretNote(used.secret)],
            ["version", used.version ?? null], ...progressCells(used)],
        })), "No secret of this workload is watched.");
      findings.update("References that are not watched or look odd",
        workload.findings.map((finding, index) => ({
          key: `${index} ${finding.reason}`,
          cells: [["text", finding.reason], ["text", finding.message]],
        })), "No findings.");
    },
  };
}

function serversView() {
  let servers, findings;
  return {
    title: () => "Servers and findings",
    build() {
      servers = makeTable(
        [["Vault server", ""], ["Secrets", ""], ["Last poll", ""], ["Last successful poll", ""]],
      );
      findings = makeTable([["Reason", ""], ["Workloads", ""]]);
      view.replaceChildren(heading("Servers and findings"), servers.sheet,
        make("h2", {}, "Findings"), findings.sheet);
    },
    path: () => null,
    overview(overview) {
      const all = overview.servers;
      servers.update(plural(all.length, "Vault server"), all.map((server) => ({
        key: server.name,
        cells: [["text", server.name], ["text", number.format(server.secrets)],
          ["time", server.lastPoll ?? null],
          ["warning", lateness(server), server.lastSuccessfulPoll ?? null]],
      })), "No server.");
      const found = Object.entries(overview.findings);
      findings.update("Workloads with references that are not watched or look odd. The detail of a"
        + " workload and its Events have the sentences.", found.map(([reason, count]) => ({
        key: reason,
        cells: [["text", reason], ["text", number.format(count)]],
      })), "No findings.");
    },
  };
}

const VIEWS = {
  rotations: listView({
    name: "rotations",
    title: "Rotations",
    states: ROTATIONS,
    usual: OPEN,
    query: "workloadNamespace",
    counts: "rotations",
    columns: [["Secret", ""], ["State", ""], ["Version", "minor"], ["Workloads", ""],
      ["Last read", "minor"]],
    caption: (total) => `${plural(total, "rotation")}: a secret, its live version, and the`
      + " workloads that refer to the secret",
    none: "No secret is watched.",
    row: (rotation) => ({
      key: secretHash(rotation.secret),
      cells: [["link", secretHash(rotation.secret), rotation.secret.path,
        secretNote(rotation.secret)],
        ["chip", "rotations", rotation.state], ["version", rotation.version ?? null],
        ["share", rotation.workloads], ["time", rotation.readAt ?? null]],
    }),
  }),
  workloads: listView({
    name: "workloads",
    title: "Workloads",
    states: WORKLOADS,
    usual: ALL,
    query: "namespace",
    counts: "workloads",
    columns: [["Workload", ""], ["State", ""], ["Secrets", ""]],
    caption: (total) => `${plural(total, "workload")}, each with the worst state of its secrets`,
    none: "No workload is watched.",
    row: ({ workload, state, secrets }) => ({
      key: workloadHash(workload),
      cells: [["link", workloadHash(workload), workload], ["chip", "workloads", state],
        ["text", number.format(secrets)]],
    }),
  }),
  servers: serversView(),
  secret: secretView(),
  workload: workloadView(),
};

// ---------------------------------------------------------------- navigation

/** The present route; the last hash of a list; the key of the detail that the user comes from. */
let present = null;
let listHash = "#/rotations";
let comingFrom = "";

function navigate() {
  const { name, params } = route();
  const current = VIEWS[name];
  const isDetail = name === "secret" || name === "workload";
  const named = ["path", "server", "namespace", "name"];
  const identity = Object.fromEntries(named.map((one) => [one, params.get(one) ?? undefined]));
  const key = isDetail ? hashOf(name, identity) : name;
  const hash = location.hash || "#/rotations";
  const before = present;
  present = { key, name, params, hash, isDetail, before: before?.hash };
  if (name === "rotations" || name === "workloads") listHash = hash;
  if (before?.key !== key) {
    showProblem("");
    view.hidden = !byId("login").hidden;
    current.build(params);
    // A list focuses the row of the detail that the user comes from, once the row is there.
    comingFrom = !isDetail && before?.isDetail ? before.key : "";
    if (before && !comingFrom) view.querySelector("h2").focus();
  } else if (before.params.get("after") !== params.get("after")) {
    view.querySelector("h2").focus();
  }
  current.enter?.(params);
  document.title = `${current.title(params)} – Vault Secrets Reloader`;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === (current.tab ?? name)) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  refresh();
}

/** Goes from a detail back to its list. */
function leaveDetail() {
  const list = byId("back").getAttribute("href");
  if (present.before === list) history.back();
  else location.hash = list;
}

// ---------------------------------------------------------------- refreshes

let request = new AbortController();
let timer = 0;
let failures = 0;
let failure = "";
let nextAt = 0;
let overviewNow = "";
let lastWords;

function setConnection(state, text) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

function showOverview(overview) {
  setClock(overview.now);
  overviewNow = overview.now;
  setText(byId("version"), overview.version);
  setText(byId("leader"), overview.leader);
  const failing = overview.servers.filter((server) => lateness(server)).map(({ name }) => name);
  const polls = overview.servers.map((server) => server.lastSuccessfulPoll).filter(Boolean).sort();
  const answered = byId("answered");
  replace(answered, [failing, polls[0]], () => {
    const names = failing.slice(0, 3).join(", ");
    const text = `${names}${failing.length > 3 ? " and others" : ""}: see the servers`;
    if (failing.length > 0) return [make("span", { class: "warning" }, `▲ no answer of ${text}`)];
    return ["answered ", polls[0] ? timeOf(polls[0]) : "no poll yet"];
  });
  const words = inWords(ROTATIONS, overview.rotations);
  // Only changes are read to users of screen readers.
  if (lastWords !== undefined && lastWords !== words) say(`Rotations: ${words || "none"}`);
  lastWords = words;
}

function say(text) {
  setText(byId("summary"), text);
}

function showProblem(text) {
  const problem = byId("problem");
  if (problem.hidden !== !text) problem.hidden = !text;
  setText(problem, text);
}

function showLogin(message) {
  const form = byId("login");
  const isNew = form.hidden;
  const refused = byId("refused");
  form.hidden = false;
  view.hidden = true;
  showProblem("");
  setConnection("waiting", "A token is needed");
  const text = message.includes("cannot be read")
    ? `The controller answers: ${message}.`
    : `The controller does not accept this token. It answers: ${message}.`;
  refused.hidden = !token();
  setText(refused, token() ? text : "");
  keepToken("");
  byId("forget").hidden = true;
  if (isNew || !refused.hidden) byId("token").focus();
  byId("token").select();
}

function failed(reason) {
  failures += 1;
  const isAnswer = reason instanceof Refusal;
  const unreachable = "The controller cannot be reached";
  const text = {
    notReady: "The controller is starting: it reads all workloads",
  }[reason.code] ?? (isAnswer ? `The controller answers: ${reason.message}` : unreachable);
  // A token that may not read must not stay until the tab is closed.
  byId("forget").hidden = !token();
  if (failures === 1) say(text);
  failure = text;
}

function succeeded(overview) {
  if (failures > 0) say("The controller answers again");
  failures = 0;
  byId("login").hidden = true;
  byId("forget").hidden = !token();
  showOverview(overview);
}

/** Reads the overview and the present view, and asks again after a pause. */
async function refresh() {
  clearTimeout(timer);
  request.abort();
  request = new AbortController();
  const { signal } = request;
  const { name, params } = present;
  const current = VIEWS[name];
  const path = current.path(params);
  const asked = [ask("/v1/overview", signal), path === null ? null : ask(path, signal)];
  const [overview, data] = await Promise.allSettled(asked);
  if (signal.aborted) return;
  const reasons = [overview, data].map(({ reason }) => reason).filter(Boolean);
  const refused = reasons.find(({ status }) => status === 401);
  if (refused) {
    showLogin(refused.message);
    return;
  }
  const isWrong = data.reason?.status === 400 || data.reason?.status === 404;
  const reason = reasons.find((one) => one !== data.reason || !isWrong);
  if (reason) {
    failed(reason);
  } else {
    succeeded(overview.value);
    current.overview?.(overview.value, params);
  }
  if (data.value) current.update(data.value, overview.value, params);
  // What cannot be found is said in place of the view. What is known from before stays.
  showProblem(isWrong ? data.reason.message : "");
  if (!reason || isWrong) view.hidden = isWrong && present.isDetail;
  const pause = Math.min(PERIOD * 2 ** failures, LONGEST_PAUSE);
  nextAt = Date.now() + pause;
  // A page that nobody sees asks nothing.
  if (!document.hidden) timer = setTimeout(refresh, pause);
  tick();
}

/** Renews what depends on the time. */
function tick() {
  renewAges();
  setText(byId("age"), overviewNow ? `of ${ago(overviewNow)}` : "–");
  if (failures > 0) {
    const seconds = Math.max(0, Math.round((nextAt - Date.now()) / 1000));
    setConnection("bad", `${failure}. Trying again in ${seconds} s`);
  } else if (overviewNow && byId("login").hidden) {
    setConnection("good", "Connected");
  }
}

// ---------------------------------------------------------------- events

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("token").value.trim();
  if (/^[\x21-\x7e]+$/.test(text)) {
    keepToken(text);
    byId("token").value = "";
    refresh();
  } else {
    byId("refused").hidden = false;
    setText(byId("refused"), "A token has only letters, digits and signs of ASCII, and no blanks.");
  }
});

byId("forget").addEventListener("click", () => {
  keepToken("");
  location.reload();
});

byId("skip").addEventListener("click", (event) => {
  // The hash of the address is the route.
  event.preventDefault();
  byId("main").focus();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && present.isDetail && !event.defaultPrevented) leaveDetail();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (byId("login").hidden) refresh();
});

addEventListener("hashchange", navigate);
setInterval(() => {
  if (!document.hidden) tick();
}, 1_000);
navigate();
