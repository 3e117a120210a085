// Controls, views and downloads: every change goes through `changed`, which draws what the state says.
"use strict";
(() => {
  const DRAW = { table: drawTable, matrix: drawMatrix, time: drawTime };

  function options(id, values, texts = {}) {
    const select = byId(id);
    select.replaceChildren(
      ...values.map((value) => element("option", { value, selected: value === state[id] }, own(texts, value) ?? value)),
    );
    select.parentElement.hidden = values.length < 2;
  }

  function drawControls() {
    const board = currentBoard();
    options("protocol", protocols());
    options(
      "adapt",
      boardsOfProtocol().map((one) => one.adapt),
      ADAPT,
    );
    options("source", ["", ...sources(board)], { "": "all" });
    options("target", ["", ...targets(board).filter((name) => viewOf(board, state.source, name))], { "": "all" });
    options("metric", Object.keys(METRICS), METRICS);
    options("classifier", ["", ...classifiers(board)], { "": "all" });
    options("weights", Object.keys(WEIGHTS), WEIGHTS);
    if (byId("search").value !== state.search) byId("search").value = state.search;
    for (const button of document.querySelectorAll("[data-view]"))
      button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  }

  function explained(board, view) {
    const counted = view.counted.length,
      all = view.transfers.length;
    const mean = all === 1 ? "One transfer." : `Mean of ${counted === all ? all : `${counted} of ${all}`} transfers.`;
    const unseen =
      counted === all
        ? ""
        : ` Ranked by ${view.counted.map((place) => named(board.transfers[place])).join(", ")}: pretrained weights in this table have seen the other targets.`;
    const marks = new Set(board.methods.flatMap((method) => view.transfers.map((place) => method.marks[place])));
    const told = {
      "†": " † pretrained weights in this row have seen images of the target.",
      "‡": " ‡ nobody knows whether they have.",
    };
    const cells = distinct(
      view.transfers.map(
        (place) => `${board.transfers[place].target} ${board.transfers[place].cells.toLocaleString("en")}`,
      ),
    ).join(", ");
    return `${mean}${unseen} Target cells: ${cells}.${[...marks].map((mark) => own(told, mark) ?? "").join("")} Rows of one group cannot be told apart from its first row. The dashed line in the bars is the majority class.`;
  }

  window.changed = () => {
    settle();
    const board = currentBoard();
    drawControls();
    byId("heading").textContent = board.title.replace(board.protocol, board.name);
    byId("explained").textContent = explained(board, currentView());
    for (const view of VIEWS) byId(view).hidden = view !== state.view;
    DRAW[state.view]();
    byId("status").textContent = `${shownRows().length} of ${board.methods.length} rows`;
    writeAddress();
  };

  /** What the table shows, as lines of plain values. */
  const shownValues = () => shownRows().map(valuesOf);
  const share = (value) => (value === null ? null : value / 10000);

  function valuesOf(row) {
    const board = currentBoard();
    const view = currentView();
    return {
      protocol: board.name,
      adapt: board.adapt,
      source: state.source || "all",
      target: state.target || "all",
      metric: state.metric,
      group: row.group || null,
      submission: row.method.submission,
      row: row.method.row,
      classifier: row.method.classifier,
      mean: share(row.mean),
      low: share(row.low),
      high: share(row.high),
      ...Object.fromEntries(
        view.transfers.map((place) => [named(board.transfers[place]), share(row.method.scores[state.metric][place])]),
      ),
      transfers_that_count: view.counted.length,
      seeds: row.method.seeds.length,
      seconds_of_a_fit: secondsOf(row.method, board, view),
      target_cells_used: usesOfTarget(board, row.method),
      weights_saw: row.method.weights_saw === null ? "not known" : row.method.weights_saw.join("; "),
      plugins: Object.values(row.method.plugins)
        .filter((one, i, all) => all.indexOf(one) === i)
        .join("; "),
      recipe_digest: row.method.digest,
    };
  }

  function asCsv(rows) {
    // A spreadsheet would run a cell that begins like a formula.
    const cell = (value) =>
      value === null
        ? ""
        : typeof value === "number"
          ? String(value)
          : `"${(/^[=+\-@\t\r]/.test(value) ? `'${value}` : value).replaceAll('"', '""')}"`;
    const names = Object.keys(rows[0] ?? valuesOf({ method: currentBoard().methods[0] }));
    return (
      [names, ...rows.map((row) => names.map((name) => row[name]))]
        .map((line) => line.map(cell).join(","))
        .join("\r\n") + "\r\n"
    );
  }

  const fileName = () => `${currentBoard().name}-${state.adapt}`.replace(/[^\w-]+/g, "-");

  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["protocol", "adapt", "source", "target", "metric", "classifier", "weights"]) {
    byId(id).addEventListener("change", (event) => {
      state[id] = event.target.value;
      shownUpTo = AT_ONCE;
      if (["protocol", "adapt"].includes(id)) state.sort = "";
      changed();
    });
  }
  byId("search").addEventListener("input", (event) => {
    state.search = event.target.value;
    shownUpTo = AT_ONCE;
    changed();
  });
  for (const button of document.querySelectorAll("[data-view]"))
    button.addEventListener("click", () => {
      state.view = button.dataset.view;
      changed();
    });
  byId("csv").addEventListener("click", () => download(`${fileName()}.csv`, "text/csv", asCsv(shownValues())));
  byId("json").addEventListener("click", () =>
    download(`${fileName()}.json`, "application/json", JSON.stringify(shownValues(), null, 1)),
  );

  function fromAddress() {
    // Another part of the page was gone to, such as by the link that skips to the content.
    if (location.hash && !location.hash.includes("=")) {
      writeAddress();
      return;
    }
    readAddress();
    // A linked row is shown wherever it stands.
    const place = state.row ? shownRows().findIndex((row) => methodName(row.method) === state.row) : -1;
    shownUpTo = Math.max(AT_ONCE, Math.ceil((place + 1) / AT_ONCE) * AT_ONCE);
    changed();
    rowOf(state.row)?.scrollIntoView();
  }
  addEventListener("hashchange", fromAddress);
  if (location.hash && !location.hash.includes("=")) history.replaceState(null, "", " ");
  fromAddress();
})();
