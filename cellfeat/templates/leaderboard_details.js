// What a row unfolds to: recall, confusion, recipe, where it was made, and the commands that make it again.
"use strict";

function details(board, row) {
  const method = row.method;
  const places = board.transfers.map((_, place) => place).filter((place) => method.details[place]);
  return element(
    "div",
    { class: "panel" },
    element("div", { class: "whole" }, recalls(board, method, places)),
    element(
      "div",
      { class: "whole" },
      element("h3", {}, "Confusion, cells (mean over seeds and folds; rows: true class)"),
      element(
        "div",
        { class: "confusions" },
        places.map((place) => confusion(board, method, place)),
      ),
    ),
    element("div", { class: "whole" }, element("h3", {}, "Made with"), facts(board, method, places)),
    element("div", {}, element("h3", {}, "Recipe"), copyable(DATA.recipes[method.recipe])),
    element(
      "div",
      {},
      element("h3", {}, "Again"),
      element(
        "p",
        { class: "small quiet" },
        "Check a record (by any of the ids above) against its predictions, and do its fit again:",
      ),
      copyable(method.verify),
      element("p", { class: "small quiet" }, "Run the recipe, saved as recipe.yaml:"),
      copyable(method.run),
    ),
  );
}

function recalls(board, method, places) {
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "transfer"),
    board.classes.map((name) => element("th", { scope: "col", class: "n" }, name)),
    element("th", { scope: "col", class: "n" }, "cells"),
    element("th", { scope: "col", class: "n" }, "calibration error"),
    element("th", { scope: "col" }, "balanced accuracy by seed, %"),
  );
  const line = (place) => {
    const { recall, seeds, calibration } = method.details[place];
    const transfer = board.transfers[place];
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, named(transfer), method.marks[place]),
      board.classes.map((name, i) =>
        element(
          "td",
          { class: "n" },
          percent(recall[i]),
          element(
            "span",
            { class: "quiet" },
            own(transfer.class_counts, name) ? ` n ${transfer.class_counts[name]}` : "",
          ),
        ),
      ),
      element("td", { class: "n" }, transfer.cells.toLocaleString("en")),
      element("td", { class: "n" }, calibration.expected_error === null ? "–" : calibration.expected_error.toFixed(2)),
      element("td", {}, seeds.map(percent).join(", ")),
    );
  };
  return [
    element("h3", {}, "Recall by class, %"),
    scrolling(
      `Recall of ${methodName(method)}`,
      element("table", {}, element("thead", {}, head), element("tbody", {}, places.map(line))),
    ),
  ];
}

function confusion(board, method, place) {
  const matrix = method.details[place].confusion;
  const totals = matrix.map((line) => line.reduce((sum, value) => sum + value, 0));
  const short = (name) => (name.length > 6 ? `${name.slice(0, 5)}.` : name);
  const shown = board.classes.map((_, i) => i).filter((i) => totals[i] || matrix.some((line) => line[i]));
  return element(
    "table",
    {},
    element("caption", {}, named(board.transfers[place])),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("td", {}),
        shown.map((i) => element("th", { scope: "col", class: "n", title: board.classes[i] }, short(board.classes[i]))),
      ),
    ),
    element(
      "tbody",
      {},
      shown.map((i) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, board.classes[i]),
          shown.map((j) =>
            element(
              "td",
              { class: "n heat", style: { "--share": String(totals[i] ? matrix[i][j] / totals[i] : 0) } },
              matrix[i][j] ? String(Math.round(matrix[i][j] * 10) / 10) : "·",
            ),
          ),
        ),
      ),
    ),
  );
}

function facts(board, method, places) {
  const ids = places.flatMap((place) => method.details[place].ids);
  const entries = [
    ["target cells used", usesOfTarget(board, method)],
    ["source labels used by the alignment", method.uses_labels ? "yes" : "no"],
    [
      "weights saw",
      method.weights_saw === null ? "not known" : method.weights_saw.join(", ") || "nothing: there are none",
    ],
    ["weights", method.weights ? `SHA-256 ${method.weights.slice(0, 16)}…` : "none"],
    [
      "plugins",
      Object.entries(method.plugins)
        .map(([part, from]) => `${part} (${from})`)
        .join(", "),
    ],
    ["versions", DATA.recipes[method.versions]],
    ["hardware", DATA.recipes[method.hardware]],
    ["time of all fits", seconds(method.seconds)],
    ["peak memory", method.memory ? `${method.memory.toLocaleString("en")} MB` : "not measured"],
    [
      "data",
      `${board.dataset.manifest}, ${board.dataset.cells.toLocaleString("en")} cells, digest ${board.dataset.digest.slice(0, 16)}`,
    ],
    ["recipe digest", method.digest],
    [`records (${ids.length})`, ids.slice(0, 12).join(" ") + (ids.length > 12 ? " …" : "")],
  ];
  return element(
    "dl",
    { class: "facts small" },
    entries.map(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]),
  );
}
