// The table: one line per row of the benchmark, its interval as a bar, its details below it when it is unfolded.
"use strict";
const AT_ONCE = 40; // rows
let shownUpTo = AT_ONCE;
let tableScale = null; // of the bars that are drawn

function drawTable() {
  const board = currentBoard();
  const view = currentView();
  const rows = shownRows();
  const columns = columnsOf(view);
  const scale = scaleOf(rows, board, view);
  tableScale = scale;
  const table = element(
    "table",
    { class: "board" },
    element("caption", { class: "hidden-text" }, byId("heading").textContent),
    element("thead", {}, headings(board, columns, scale)),
    element(
      "tbody",
      {},
      rows.length ? null : nothing(),
      rows.slice(0, shownUpTo).flatMap((row, place) => lines(board, view, columns, scale, row, rows[place - 1])),
    ),
    element(
      "tfoot",
      {},
      ["majority", "ceiling"].map((kind) => bound(board, view, columns, kind)),
    ),
  );
  const more =
    rows.length > shownUpTo
      ? element(
          "button",
          { type: "button", class: "no-print", onclick: showMore },
          `Show ${Math.min(AT_ONCE, rows.length - shownUpTo)} more of ${rows.length} rows`,
        )
      : null;
  byId("table").replaceChildren(scrolling("Table of methods", table), ...(more ? [more] : []));
}

/** The next rows, and the keyboard at the first of them. */
function showMore() {
  const first = shownUpTo;
  shownUpTo += AT_ONCE;
  drawTable();
  byId("table").querySelectorAll("tr.row")[first].querySelector("button").focus();
}

function nothing() {
  return element("tr", {}, element("td", {}), element("td", { colspan: "4" }, "No row matches what was chosen above."));
}

/** Ends of the bars' axis in 1/10,000: whole tens of percent around all that is shown. */
function scaleOf(rows, board, view) {
  const lows = rows.map((row) => row.low).filter((value) => value !== null);
  const highs = rows.map((row) => row.high).filter((value) => value !== null);
  const low = Math.floor(Math.min(...lows, boundMean(board, view, "majority") ?? 10000) / 1000) * 1000;
  const high = Math.ceil(Math.max(...highs, 0) / 1000) * 1000;
  return lows.length
    ? { low: Math.max(0, low), high: Math.min(10000, Math.max(high, low + 1000)) }
    : { low: 0, high: 10000 };
}

/** Mean of the majority class, or of the ceiling, over the transfers that count. */
function boundMean(board, view, kind) {
  const values = view.counted.map((place) => board.transfers[place][kind][state.metric]);
  return values.some((value) => value === null) ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function headings(board, columns, scale) {
  const sortable = (key, text, options = {}) => {
    const current =
      state.sort.replace(/^-/, "") === key ? (state.sort.startsWith("-") ? "descending" : "ascending") : null;
    return element(
      "th",
      { scope: "col", "aria-sort": current, ...options },
      element("button", { type: "button", onclick: () => sortBy(key), "data-sort": key }, text),
    );
  };
  return element(
    "tr",
    {},
    element("th", { scope: "col" }, "group"),
    sortable("name", "row/classifier"),
    sortable("mean", `${METRICS[state.metric]}, %`, { class: "n" }),
    element("th", { scope: "col", class: "narrow-hide" }, axis(scale)),
    columns.map((place) => sortable(`t${place}`, twoLines(board.transfers[place]), { class: "n narrow-hide" })),
    sortable("seeds", "seeds", { class: "n narrow-hide" }),
    sortable("seconds", "a fit", { class: "n narrow-hide" }),
    sortable("weights", "weights saw", { class: "narrow-hide" }),
  );
}

const twoLines = (transfer) => [
  element("span", { class: "line" }, transfer.source),
  element("span", { class: "line" }, `→ ${transfer.target}`),
];

/** Ascending, then descending, then the groups' own order again; figures begin with the best. */
function sortBy(key) {
  const text = ["name", "weights", "seconds"].includes(key);
  const [first, second] = text ? [key, `-${key}`] : [`-${key}`, key];
  state.sort = state.sort === first ? second : state.sort === second ? "" : first;
  changed();
  byId("table").querySelector(`[data-sort="${key}"]`).focus();
}

function lines(board, view, columns, scale, row, before) {
  const address = methodName(row.method);
  const open = state.row === address;
  const id = `details-${row.number}`;
  const starts = !state.sort && before && before.group !== row.group;
  const line = element(
    "tr",
    { class: `row${starts ? " first" : ""}${row.group ? "" : " unranked"}`, "data-row": address },
    element("td", { class: "group" }, row.group ? String(row.group) : "–"),
    element(
      "th",
      { class: "name", scope: "row" },
      element(
        "button",
        {
          type: "button",
          "aria-expanded": String(open),
          "aria-controls": open ? id : null,
          onclick: () => unfold(address),
        },
        address,
      ),
      remark(board, row),
    ),
    meanCell(row),
    element(
      "td",
      { class: "narrow-hide" },
      row.mean === null ? "" : bar(row, scale, boundMean(board, view, "majority")),
    ),
    columns.map((place) =>
      element(
        "td",
        { class: "n narrow-hide" },
        percent(row.method.scores[state.metric][place]),
        row.method.scores[state.metric][place] === null ? "" : row.method.marks[place],
      ),
    ),
    element("td", { class: "n narrow-hide" }, String(row.method.seeds.length)),
    element("td", { class: "n narrow-hide" }, seconds(secondsOf(row.method, board, view))),
    element("td", { class: "small narrow-hide saw", title: sawNames(row.method) }, sawNames(row.method)),
  );
  return open
    ? [
        line,
        element(
          "tr",
          { class: "unfolded", id },
          element("td", { colspan: String(line.children.length) }, details(board, row)),
        ),
      ]
    : [line];
}

function meanCell(row) {
  if (row.mean === null) return element("td", { class: "n mean" }, "–");
  return element(
    "td",
    { class: "n mean" },
    percent(row.mean),
    element("span", { class: "quiet small" }, ` [${percent(row.low)}, ${percent(row.high)}]`),
  );
}

/** Why a row is not ranked, in a few words. */
function remark(board, row) {
  if (row.group) return "";
  const text =
    Object.values(row.method.remarks)[0] ??
    (row.mean === null
      ? "not run on all of these transfers"
      : row.method.weights_saw === null
        ? "what its weights have seen is not known"
        : "its weights have seen the target");
  return element("div", { class: "quiet" }, text);
}

/** Unfold a row, or fold it again; its address is the page's. Only what changes is drawn. */
function unfold(address) {
  const before = state.row;
  state.row = before === address ? "" : address;
  for (const name of [before, address]) {
    const line = name && rowOf(name);
    if (!line) continue;
    const row = shownRows().find((one) => methodName(one.method) === name);
    if (line.nextElementSibling?.classList.contains("unfolded")) line.nextElementSibling.remove();
    const [drawn, details] = lines(currentBoard(), currentView(), columnsOf(currentView()), tableScale, row, row);
    line.querySelector("button").replaceWith(drawn.querySelector("button"));
    if (details) line.after(details);
  }
  writeAddress();
  rowOf(address)?.querySelector("button").focus();
}

function rowOf(address) {
  return [...byId("table").querySelectorAll("tr.row")].find((line) => line.dataset.row === address);
}

const BAR = { width: 176, height: 18 };
const along = (value, scale) => 6 + ((value - scale.low) / (scale.high - scale.low)) * (BAR.width - 12);

function axis(scale) {
  const ends = [scale.low, (scale.low + scale.high) / 2, scale.high];
  return drawing(
    "svg",
    {
      class: "bar",
      viewBox: `0 0 ${BAR.width} ${BAR.height}`,
      role: "img",
      "aria-label": `Bars from ${percent(scale.low)} to ${percent(scale.high)} %`,
    },
    ends.map((value, place) =>
      drawing(
        "text",
        { x: along(value, scale), y: 11, "text-anchor": ["start", "middle", "end"][place] },
        (value / 100).toFixed(0),
      ),
    ),
    drawing("line", { class: "axis", x1: along(scale.low, scale), x2: along(scale.high, scale), y1: 16, y2: 16 }),
  );
}

function bar(row, scale, majority) {
  const label = `${percent(row.mean)} %, 95 % interval ${percent(row.low)} to ${percent(row.high)}`;
  return drawing(
    "svg",
    { class: "bar", viewBox: `0 0 ${BAR.width} ${BAR.height}`, role: "img", "aria-label": label },
    majority === null
      ? null
      : drawing("line", { class: "base", x1: along(majority, scale), x2: along(majority, scale), y1: 1, y2: 17 }),
    drawing("line", { class: "span", x1: along(row.low, scale), x2: along(row.high, scale), y1: 9, y2: 9 }),
    drawing("line", { class: "at", x1: along(row.mean, scale), x2: along(row.mean, scale), y1: 3, y2: 15 }),
  );
}

function bound(board, view, columns, kind) {
  const said = { majority: "always the commonest class", ceiling: "best that could be reached" }[kind];
  return element(
    "tr",
    { class: "bound" },
    element("td", {}),
    element("th", { scope: "row" }, said),
    element("td", { class: "n" }, percent(boundMean(board, view, kind))),
    element("td", { class: "narrow-hide" }),
    columns.map((place) =>
      element("td", { class: "n narrow-hide" }, percent(board.transfers[place][kind][state.metric])),
    ),
    [0, 1, 2].map(() => element("td", { class: "narrow-hide" })),
  );
}
