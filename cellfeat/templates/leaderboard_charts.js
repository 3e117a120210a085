// The same rows as a matrix of source and target, and as time against quality.
"use strict";

function drawMatrix() {
  const board = currentBoard();
  const view = currentView();
  const rows = shownRows();
  const chosen = rows.find((row) => methodName(row.method) === state.row);
  const transfers = view.transfers.map((place) => board.transfers[place]);
  const choice = element(
    "select",
    {
      onchange: (event) => {
        state.row = event.target.value;
        changed();
        byId("matrix").querySelector("select").focus();
      },
    },
    element("option", { value: "" }, "the best row of each transfer"),
    rows.map((row) =>
      element("option", { value: methodName(row.method), selected: row === chosen }, methodName(row.method)),
    ),
  );
  const [from, to] = [
    distinct(transfers.map((one) => one.source)).sort(),
    distinct(transfers.map((one) => one.target)).sort(),
  ];
  const told = `${METRICS[state.metric]} in percent: a line for each source, a column for each target; n target cells.${chosen ? "" : " The best of many rows is chosen by this very figure, which flatters it."}`;
  const table = element(
    "table",
    { class: "matrix" },
    element("caption", { class: "hidden-text" }, told),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("td", {}),
        to.map((name) => element("th", { scope: "col" }, `→ ${name}`)),
      ),
    ),
    element(
      "tbody",
      {},
      from.map((source) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, source),
          to.map((target) => matrixCell(board, chosen ? [chosen] : rows, source, target)),
        ),
      ),
    ),
  );
  byId("matrix").replaceChildren(
    element("p", { class: "controls no-print" }, element("label", {}, "Row", choice)),
    element("p", { class: "small quiet" }, told),
    scrolling("Matrix of source and target", table),
  );
}

function matrixCell(board, rows, source, target) {
  const place = board.transfers.findIndex((one) => one.source === source && one.target === target);
  if (place < 0) return element("td", { class: "empty quiet small" }, source === target ? "same laboratory" : "–");
  const candidates = rows.filter((row) => row.method.scores[state.metric][place] !== null);
  if (!candidates.length) return element("td", { class: "empty quiet small" }, "not run");
  const best = candidates.reduce((one, other) =>
    other.method.scores[state.metric][place] > one.method.scores[state.metric][place] ? other : one,
  );
  const value = best.method.scores[state.metric][place];
  return element(
    "td",
    { class: "heat", style: { "--share": String(value / 10000) } },
    element("strong", {}, percent(value), best.method.marks[place]),
    rows.length > 1 ? element("div", { class: "small" }, methodName(best.method)) : "",
    element("div", { class: "small" }, `n ${board.transfers[place].cells.toLocaleString("en")}`),
  );
}

const CHART = { width: 860, height: 460, left: 52, right: 24, top: 16, bottom: 46 };

function drawTime() {
  const board = currentBoard();
  const view = currentView();
  const rows = shownRows()
    .map((row) => ({ ...row, seconds: secondsOf(row.method, board, view) }))
    .filter((row) => row.mean !== null && row.seconds !== null);
  if (!rows.length) {
    byId("time").replaceChildren(element("p", {}, "No row has all of these transfers."));
    return;
  }
  const x = logScale(rows.map((row) => Math.max(row.seconds, 0.01)));
  const lows = Math.floor(Math.min(...rows.map((row) => row.low)) / 1000) * 1000;
  const highs = Math.ceil(Math.max(...rows.map((row) => row.high)) / 1000) * 1000;
  const y = (value) =>
    CHART.top + ((highs - value) / Math.max(highs - lows, 1)) * (CHART.height - CHART.top - CHART.bottom);
  const at = rows.map((row) => ({ row, x: x.place(Math.max(row.seconds, 0.01)), y: y(row.mean) }));
  const chart = drawing(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${CHART.width} ${CHART.height}`,
      role: "img",
      "aria-label": `${METRICS[state.metric]} against seconds of ${rows.length} rows; the table has the same figures`,
    },
    gridOf(x, y, lows, highs),
    frontOf(at),
    at.map((point) => dotOf(point, y)),
    labelsOf(at),
  );
  byId("time").replaceChildren(
    element(
      "figure",
      {},
      chart,
      element(
        "figcaption",
        {},
        `Each dot is one of ${rows.length} rows: mean ${METRICS[state.metric]} with its 95 % interval against the seconds of one fit with all its answers (mean over seeds and sources, encoding left out), on a logarithmic scale. Rows ran on the hardware that their details name. The dashed line joins rows that no other row beats in both.`,
      ),
    ),
  );
}

function logScale(values) {
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const place = (value) =>
    CHART.left + ((Math.log10(value) - low) / (high - low)) * (CHART.width - CHART.left - CHART.right);
  return { place, ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) };
}

function gridOf(x, y, low, high) {
  const step = high - low > 5000 ? 2000 : 1000;
  const levels = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => low + i * step);
  const bottom = CHART.height - CHART.bottom;
  return [
    levels.flatMap((value) => [
      drawing("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(value), y2: y(value) }),
      drawing("text", { x: CHART.left - 8, y: y(value) + 4, "text-anchor": "end" }, (value / 100).toFixed(0)),
    ]),
    x.ticks.flatMap((value) => [
      drawing("line", { class: "grid", x1: x.place(value), x2: x.place(value), y1: CHART.top, y2: bottom }),
      drawing(
        "text",
        { x: x.place(value), y: bottom + 16, "text-anchor": "middle" },
        value >= 1 ? value.toLocaleString("en") : String(value),
      ),
    ]),
    drawing(
      "text",
      { x: (CHART.left + CHART.width - CHART.right) / 2, y: CHART.height - 8, "text-anchor": "middle" },
      "seconds of a fit",
    ),
    drawing(
      "text",
      {
        x: 14,
        y: (CHART.top + bottom) / 2,
        "text-anchor": "middle",
        transform: `rotate(-90 14 ${(CHART.top + bottom) / 2})`,
      },
      `${METRICS[state.metric]}, %`,
    ),
  ].flat();
}

/** The rows that no other beats in time and in quality, joined from the quickest to the best. */
function frontOf(at) {
  const front = [];
  for (const point of [...at].sort((a, b) => a.x - b.x || a.y - b.y))
    if (!front.length || point.y < front.at(-1).y) front.push(point);
  return drawing("polyline", { class: "front", points: front.map((point) => `${point.x},${point.y}`).join(" ") });
}

function dotOf({ row, x, y: middle }, y) {
  const told = `${methodName(row.method)}: ${percent(row.mean)} % [${percent(row.low)}, ${percent(row.high)}], ${seconds(row.seconds)}`;
  return drawing(
    "g",
    {},
    drawing("title", {}, told),
    drawing("line", { class: "span", x1: x, x2: x, y1: y(row.low), y2: y(row.high) }),
    drawing("circle", { class: "dot", cx: x, cy: middle, r: 5 }),
  );
}

/** Names where there is room for them, the best rows' first. */
function labelsOf(at) {
  const taken = at.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  const labels = [];
  for (const { row, x, y } of [...at].sort((a, b) => a.y - b.y)) {
    const text = methodName(row.method);
    const width = text.length * 6;
    for (const left of [x + 9, x - 9 - width]) {
      const box = { left, right: left + width, top: y - 7, bottom: y + 7 };
      const free =
        box.left > CHART.left &&
        box.right < CHART.width &&
        taken.every(
          (other) =>
            box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom,
        );
      if (!free) continue;
      taken.push(box);
      labels.push(
        drawing(
          "text",
          { class: "label", x: left > x ? left : left + width, y: y + 4, "text-anchor": left > x ? "start" : "end" },
          text,
        ),
      );
      break;
    }
  }
  return labels;
}
