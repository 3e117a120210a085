// The tiles of one class, and where the reviewer is among them.
"use strict";
const grid = byId("grid");
let group = GROUPS.keys().next().value;
let shown = []; // rows of the group that pass the filter, as it was when they were listed
let drawn = 0; // how many of them have a tile
let at = 0; // place in `shown` of the current cell
let anchor = 0; // where a selection began
let chosen = new Set(); // rows
const tiles = new Map();

const current = () => shown[at];
const say = (text) => {
  byId("said").textContent = text;
};

// Tiles

function tileOf(row) {
  if (!tiles.has(row)) {
    const cell = CELLS[row];
    const doubts = [...cell.flags, cell.answer === NO_ANSWER ? `likeliest: ${bestOf(row)}` : ""].filter(Boolean);
    tiles.set(
      row,
      element(
        "li",
        { role: "option", tabindex: "-1", "data-row": row },
        element("img", { src: `pictures/${row}`, alt: "", loading: "lazy", width: 112, height: 112 }),
        element("span", { class: "answer" }),
        element("span", {}, cell.probability.toFixed(2)),
        doubts.length ? element("span", { class: "flags" }, doubts.join(", ")) : null,
        cell.set.length > 1 ? element("span", { class: "quiet" }, `one of: ${cell.set.join(", ")}`) : null,
      ),
    );
  }
  return tiles.get(row);
}

const MARKS = { accepted: "✓ ", corrected: "→ ", other: "" };

function refresh(row) {
  const tile = tileOf(row),
    cell = CELLS[row],
    state = stateOf(row);
  tile.dataset.state = state;
  tile.setAttribute("aria-selected", String(chosen.has(row)));
  tile.tabIndex = row === current() ? 0 : -1;
  tile.querySelector(".answer").textContent = state ? MARKS[state] + answerOf(row) : "";
  tile.setAttribute(
    "aria-label",
    [
      cell.id,
      `${bestOf(row)} ${cell.probability.toFixed(2)}`,
      ...cell.flags,
      cell.answer === NO_ANSWER ? "no answer" : "",
      cell.set.length > 1 ? `one of ${cell.set.join(", ")}` : "",
      state ? `${state === "other" ? "said to be" : state}: ${answerOf(row)}` : "not reviewed",
    ]
      .filter(Boolean)
      .join(", "),
  );
}

function drawMore(upTo) {
  const end = Math.min(shown.length, Math.max(upTo, drawn));
  grid.append(...shown.slice(drawn, end).map((row) => (refresh(row), tileOf(row))));
  drawn = end;
  byId("more").hidden = drawn >= shown.length;
}

/** List the group's cells anew; `keep`: a row to be the current one. */
function list(keep) {
  shown = GROUPS.get(group).filter((row) => row === keep || FILTERS[byId("filter").value](row));
  at = anchor = Math.max(0, shown.indexOf(keep));
  drawn = 0;
  chosen = new Set();
  grid.replaceChildren();
  drawMore(Math.max(AT_ONCE, at + 1));
  byId("none").hidden = shown.length > 0;
  drawCounts();
}

function drawCounts() {
  const all = reviewedOf([...CELLS.keys()]);
  byId("progress").value = all;
  byId("progressed").textContent = `${all.toLocaleString("en")} of ${CELLS.length.toLocaleString("en")} reviewed`;
  byId("heading").textContent = `Predicted: ${groupName(group)}, least sure first`;
  for (const button of byId("groups").children) {
    const of = Number(button.dataset.group),
      rows = GROUPS.get(of);
    button.textContent = `${groupName(of)} ${reviewedOf(rows)}/${rows.length}`;
    button.setAttribute("aria-pressed", String(of === group));
  }
}

// Where the reviewer is

function go(place, extend = false) {
  if (!shown.length) return;
  const before = current();
  at = Math.min(Math.max(place, 0), shown.length - 1);
  if (at >= drawn) drawMore(drawn + AT_ONCE);
  const old = chosen;
  chosen = extend ? new Set(shown.slice(Math.min(anchor, at), Math.max(anchor, at) + 1)) : new Set();
  if (!extend) anchor = at;
  for (const row of new Set([before, current(), ...old, ...chosen])) if (tiles.has(row)) refresh(row);
  if (large.open) drawLarge();
  else tileOf(current()).focus();
  tileOf(current()).scrollIntoView({ block: "nearest" });
}

function columns() {
  const top = grid.children[0]?.offsetTop;
  const next = [...grid.children].findIndex((tile) => tile.offsetTop !== top);
  return next < 1 ? Math.max(1, grid.children.length) : next;
}

function goToGroup(step) {
  const names = [...GROUPS.keys()];
  show(names[(names.indexOf(group) + step + names.length) % names.length]);
  go(at);
}

/** Another class, at one of its cells, or at the first that is not yet reviewed. */
function show(next, keep) {
  group = next;
  list(keep ?? GROUPS.get(group).find((row) => !answerOf(row)));
}
