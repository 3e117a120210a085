// What the reader chose, the address that says so, and the rows that this leaves.
"use strict";
const DATA = JSON.parse(byId("data").textContent);
const METRICS = { balanced_accuracy: "balanced accuracy", accuracy: "accuracy", macro_f1: "macro-F1" };
const ADAPT = { none: "none", heldout: "unlabelled, others than the scored", test: "unlabelled, the scored ones" };
const WEIGHTS = { "": "any", unseen: "have not seen the target", none: "no pretrained weights" };
const VIEWS = ["table", "matrix", "time"];
const MOST_COLUMNS = 8; // transfers beside each other; more are in the matrix
const DEFAULTS = {
  protocol: "",
  adapt: "",
  source: "",
  target: "",
  metric: "balanced_accuracy",
  classifier: "",
  weights: "",
  search: "",
  view: "table",
  sort: "",
  row: "",
};

const percent = (value) => (value === null || value === undefined ? "–" : (value / 100).toFixed(1));
/** A name's value; names come from data and may be those of what every object has. */
const own = (object, name) => (Object.hasOwn(object, name) ? object[name] : undefined);
const seconds = (value) =>
  value === null
    ? "–"
    : value < 90
      ? `${value.toFixed(value < 10 ? 1 : 0)} s`
      : value < 5400
        ? `${(value / 60).toFixed(0)} min`
        : `${(value / 3600).toFixed(1)} h`;
const named = (transfer) => `${transfer.source} → ${transfer.target}`;
const methodName = (method) => `${method.submission ? `${method.submission}: ` : ""}${method.row}/${method.classifier}`;
/** Of one fit and all its answers, mean over seeds and over the view's sources; null where one was not run. */
function secondsOf(method, board, view) {
  const each = distinct(view.transfers.map((place) => board.transfers[place].source)).map((source) =>
    own(method.seconds_of_fit, source),
  );
  return each.includes(undefined) ? null : each.reduce((sum, value) => sum + value, 0) / each.length;
}
const sawNames = (method) =>
  method.weights_saw === null
    ? "not known"
    : method.weights_saw.length
      ? [...new Set(method.weights_saw.map((entry) => entry.split(" (")[0]))].join(", ")
      : "none";

function usesOfTarget(board, method) {
  const unlabelled = board.adapt === "none" ? "none" : method.uses_target ? ADAPT[board.adapt] : "none";
  return board.shots ? `${unlabelled}; up to ${board.shots} labelled` : unlabelled;
}

const state = { ...DEFAULTS };

/** Read the state from the page's address; what does not exist falls back to what does. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
  settle();
}

/** Make every choice one that exists. */
function settle() {
  const among = (key, values) => {
    if (!values.includes(state[key])) state[key] = values[0];
  };
  among("protocol", protocols());
  among(
    "adapt",
    boardsOfProtocol().map((board) => board.adapt),
  );
  const board = currentBoard();
  among("source", ["", ...sources(board)]);
  among("target", ["", ...targets(board)]);
  if (!currentView()) {
    state.source = "";
    state.target = "";
  }
  among("metric", Object.keys(METRICS));
  among("classifier", ["", ...classifiers(board)]);
  among("weights", Object.keys(WEIGHTS));
  among("view", VIEWS);
  if (!sortValues(board, currentView()).has(state.sort.replace(/^-/, ""))) state.sort = "";
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) if (value !== DEFAULTS[key]) said.set(key, value);
  history.replaceState(null, "", `#${said}`);
}

const distinct = (values) => [...new Set(values)];
const protocols = () => distinct(DATA.boards.map((board) => board.name));
const boardsOfProtocol = () => DATA.boards.filter((board) => board.name === state.protocol);
const currentBoard = () => boardsOfProtocol().find((board) => board.adapt === state.adapt);
const sources = (board) => distinct(board.views.map((view) => view.source).filter((name) => name !== null));
const targets = (board) => distinct(board.views.map((view) => view.target).filter((name) => name !== null));
const classifiers = (board) => distinct(board.methods.map((method) => method.classifier)).sort();

function viewOf(board, source, target) {
  return board.views.find((view) => view.source === (source || null) && view.target === (target || null));
}

const currentView = () => viewOf(currentBoard(), state.source, state.target);

/** The rows to show, group by group: {method, number, group, mean, low, high}. */
function shownRows() {
  const board = currentBoard();
  const view = currentView();
  const table = view.tables[state.metric];
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = table.method.map((number, place) => ({
    number,
    method: board.methods[number],
    group: table.group[place],
    mean: table.mean[place],
    low: table.low[place],
    high: table.high[place],
    place,
  }));
  return sorted(
    rows.filter((row) => kept(row.method, view, words)),
    board,
    view,
  );
}

function kept(method, view, words) {
  if (state.classifier && method.classifier !== state.classifier && hasClassifier(method)) return false;
  if (state.weights === "unseen" && view.transfers.some((place) => method.marks[place])) return false;
  if (state.weights === "none" && (method.weights_saw === null || method.weights_saw.length)) return false;
  const text = [methodName(method), sawNames(method), ...Object.keys(method.plugins), ...Object.values(method.plugins)]
    .join(" ")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Whether this row was also run with the chosen classifier; a network with its own head stands for itself. */
function hasClassifier(method) {
  return currentBoard().methods.some(
    (other) =>
      other.row === method.row && other.submission === method.submission && other.classifier === state.classifier,
  );
}

/** By the chosen column; "" is the order of the groups. `sort` is a column's key, with "-" before it for descending. */
function sorted(rows, board, view) {
  if (!state.sort) return rows;
  const descending = state.sort.startsWith("-");
  const key = state.sort.replace(/^-/, "");
  const value = sortValues(board, view).get(key);
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  const missing = (one) => one === null || one === undefined;
  return [...rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (missing(left) || missing(right)) return missing(left) - missing(right) || a.place - b.place;
    return (descending ? -1 : 1) * compare(left, right) || a.place - b.place;
  });
}

/** The transfers that stand as columns: none where there is one alone, which the mean is, or too many. */
const columnsOf = (view) => (view.transfers.length > 1 && view.transfers.length <= MOST_COLUMNS ? view.transfers : []);

/** What can be sorted by: the columns that are shown. */
function sortValues(board, view) {
  const values = new Map([
    ["name", (row) => methodName(row.method)],
    ["mean", (row) => row.mean],
    ["seeds", (row) => row.method.seeds.length],
    ["seconds", (row) => secondsOf(row.method, board, view)],
    ["weights", (row) => sawNames(row.method)],
  ]);
  for (const place of columnsOf(view)) values.set(`t${place}`, (row) => row.method.scores[state.metric][place]);
  return values;
}
