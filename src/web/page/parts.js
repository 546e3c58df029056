// The parts of the page: elements, times, states, cells, tables, tiles and links to pages.
//
// Tenants choose the names of workloads and the paths of secrets. All texts of the API become text
// nodes, never markup.

/** Each state: its mark, its tone, and its words. The order is the order of the tiles. */
export const ROTATIONS = {
  stopped: ["✕", "bad", "Stopped"],
  missing: ["∅", "bad", "Missing"],
  held: ["‖", "warn", "Held"],
  running: ["↻", "busy", "Running"],
  unknown: ["?", "calm", "Unknown"],
  complete: ["✓", "good", "Complete"],
};
export const WORKLOADS = {
  failed: ["✕", "bad", "Failed"],
  takenBack: ["↶", "bad", "Taken back"],
  held: ["‖", "warn", "Held"],
  pending: ["…", "busy", "Pending"],
  running: ["↻", "busy", "Running"],
  unknown: ["?", "calm", "Unknown"],
  silent: ["○", "calm", "Silent"],
  complete: ["✓", "good", "Complete"],
};
/** Sorts the workloads of a secret by their states, the worst first. Equal ones keep their order. */
export function worstFirst(users) {
  const states = Object.keys(WORKLOADS);
  const rank = ({ state }) => states.includes(state) ? states.indexOf(state) : states.length;
  return [...users].sort((one, other) => rank(one) - rank(other));
}
export const OPEN = "open";
export const ALL = "all";

/** Makes an element. Attributes are set as text; children are elements or texts. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Sets the text of an element, without touching an element that has the text already. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const number = new Intl.NumberFormat("en");
export const plural = (count, word) => `${number.format(count)} ${word}${count === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- times

/** The controller's clock minus the clock of this machine, in milliseconds. */
let clockOffset = 0;

/** Takes in the time of an answer. */
export function setClock(now) {
  clockOffset = Date.parse(now) - Date.now();
}

export function ago(time) {
  const seconds = Math.max(0, Math.round((Date.now() + clockOffset - Date.parse(time)) / 1000));
  if (seconds < 100) return `${seconds} s ago`;
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export function timeOf(time) {
  return make("time", { datetime: time, title: time }, ago(time));
}

export function renewAges() {
  for (const element of document.querySelectorAll("time")) setText(element, ago(element.dateTime));
}

// ---------------------------------------------------------------- links

export function hashOf(name, params) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#/${name}${query && "?"}${query}`;
}

export const secretHash = ({ server, namespace, path }) =>
  hashOf("secret", { path, server, namespace: namespace ?? undefined });
export const workloadHash = (name) => hashOf("workload", { name });

// ---------------------------------------------------------------- cells

export function chip(states, state) {
  const [mark, tone, word] = states[state] ?? ["?", "calm", state];
  return make("span", { class: `chip tone-${tone}` },
    make("span", { class: "mark", "aria-hidden": "true" }, mark), word);
}

export function secretNote({ server, namespace }) {
  const parts = [`server ${server}`];
  if (namespace) parts.push(`Vault namespace ${namespace}`);
  return parts.join(", ");
}

/** The states of some workloads in words: "1 failed, 2 held". */
export function inWords(states, counts, without = []) {
  const known = Object.keys(states).filter((state) => counts[state] && !without.includes(state));
  return known.map((s) => `${number.format(counts[s])} ${states[s][2].toLowerCase()}`).join(", ");
}

export const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);

function share(counts) {
  const [done, all] = [counts.complete ?? 0, sum(counts)];
  const rest = inWords(WORKLOADS, counts, ["complete"]);
  return make("div", {},
    `${number.format(done)} of ${number.format(all)} complete`,
    make("progress", { value: done, max: Math.max(all, 1), "aria-hidden": "true" }),
    make("span", { class: "sub" }, rest));
}

function link(hash, text, note) {
  // A long name breaks after a slash.
  const parts = text.split("/").flatMap((part, index) => {
    return index === 0 ? [part] : ["/", make("wbr"), part];
  });
  return make("div", {}, make("a", { class: "name", href: hash }, ...parts),
    note === undefined ? null : make("span", { class: "sub" }, note));
}

/** Each kind of cell: makes the content from the data. */
const CELLS = {
  text: (text) => document.createTextNode(text),
  link,
  chip: (table, state) => chip(table === "rotations" ? ROTATIONS : WORKLOADS, state),
  share,
  time: (time) => (time ? timeOf(time) : document.createTextNode("–")),
  version: (version) => version
    ? make("div", {}, String(version.number),
      make("span", { class: "sub" }, "created ", timeOf(version.created)))
    : document.createTextNode("–"),
  reason: (code, message) =>
    make("div", {}, message, code ? make("span", { class: "sub" }, code) : null),
  warning: (text, time) => make("div", {}, time ? timeOf(time) : "–",
    text ? make("span", { class: "sub warning" }, `▲ ${text}`) : null),
};

/** The data that each cell shows at present. */
const shown = new WeakMap();

function paint(row, cells, columns, isNew) {
  cells.forEach((cell, index) => {
    const old = row.cells[index];
    const data = JSON.stringify(cell);
    if (old && shown.get(old) === data) return;
    const [kind, ...values] = cell;
    const [tag, scope] = index === 0 ? ["th", "row"] : ["td", undefined];
    const target = old ?? row.appendChild(make(tag, { scope, class: columns[index][1] }));
    target.replaceChildren(CELLS[kind](...values));
    shown.set(target, data);
    // The time of the last read changes with each poll, and is no news.
    if (!isNew && kind !== "time") {
      row.classList.remove("changed");
      // The animation begins again only once the browser has seen the row without its class.
      requestAnimationFrame(() => row.classList.add("changed"));
    }
  });
}

/** A table whose rows are updated in place, so that focus and selection stay. */
export function makeTable(columns) {
  const caption = make("caption", {}, "Loading");
  const head = make("tr");
  for (const [name, style] of columns) {
    head.append(make("th", { scope: "col", class: style }, name));
  }
  const body = make("tbody");
  const table = make("table", {}, caption, make("thead", {}, head), body);
  const sheet = make("div", { class: "sheet" }, table);
  const update = (text, items, empty) => {
    setText(caption, text);
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    const wanted = new Set(items.map(({ key }) => key));
    const rows = new Map();
    for (const row of [...body.rows]) {
      if (wanted.has(row.dataset.key)) rows.set(row.dataset.key, row);
      else row.remove();
    }
    let next = body.firstElementChild;
    for (const { key, cells } of items) {
      const known = rows.get(key);
      const row = known ?? make("tr", { "data-key": key });
      if (row === next) next = next.nextElementSibling;
      else body.insertBefore(row, next);
      paint(row, cells, columns, !known);
    }
    if (items.length === 0) {
      const cell = make("td", { class: "empty", colspan: columns.length }, empty);
      body.replaceChildren(make("tr", {}, cell));
    }
    if (focused && document.activeElement !== focused) {
      const target = focused.isConnected ? focused : document.querySelector("#view h2");
      target?.focus({ preventScroll: true });
    }
  };
  return { sheet, body, update };
}

export function makeTiles(label, name, states) {
  const tiles = {};
  const list = make("ul", { class: "tiles", "aria-label": label });
  for (const [state, [mark, tone, word]] of Object.entries(states)) {
    const count = make("span", { class: "count" }, "–");
    const tile = make("a", { href: hashOf(name, { state }) }, count,
      make("span", { class: `tone-${tone}` },
        make("span", { class: "mark", "aria-hidden": "true" }, mark), word));
    tiles[state] = [tile, count];
    list.append(make("li", {}, tile));
  }
  const update = (counts, selected) => {
    for (const [state, [tile, count]] of Object.entries(tiles)) {
      setText(count, number.format(counts[state] ?? 0));
      tile.classList.toggle("none", !counts[state]);
      if (state === selected) tile.setAttribute("aria-current", "true");
      else tile.removeAttribute("aria-current");
    }
  };
  return { list, update };
}

export function makePages() {
  const text = make("span");
  const first = make("a", {}, "First page");
  const next = make("a", {}, "Next page");
  const pages = make("nav", { class: "pages", "aria-label": "Pages" }, text, first, next);
  const update = (name, params, page) => {
    const { after, from, ...others } = Object.fromEntries(params);
    const begin = Number(from) > 0 ? Number(from) : 1;
    const end = begin + page.items.length - 1;
    const range = page.items.length === 0 ? "0" : `${number.format(begin)}–${number.format(end)}`;
    setText(text, `${range} of ${number.format(page.total)}`);
    first.href = hashOf(name, others);
    first.hidden = !after;
    next.hidden = !page.continue;
    if (page.continue) next.href = hashOf(name, { ...others, after: page.continue, from: end + 1 });
  };
  return { pages, update };
}

export function facts(entries) {
  const list = make("dl", { class: "detail" });
  for (const [name, value] of entries) list.append(make("dt", {}, name), make("dd", {}, value));
  return list;
}

/** Replaces an element's children, unless they show the same. */
export function replace(target, data, children) {
  const text = JSON.stringify(data);
  if (shown.get(target) === text) return;
  shown.set(target, text);
  target.replaceChildren(...children());
}

/** What is wrong with the polls of a server; empty if nothing is. */
export function lateness({ lastPoll, lastSuccessfulPoll }) {
  if (!lastPoll) return "not polled yet";
  if (!lastSuccessfulPoll) return "no poll was answered yet";
  return Date.parse(lastSuccessfulPoll) < Date.parse(lastPoll) ? "the last poll failed" : "";
}
