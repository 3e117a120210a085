// Decisions, and what keys and buttons do.
"use strict";
(() => {
  const chooser = byId("chooser");
  const MOST_TOLD = 50; // cells whose decisions could not be saved

  // Decisions

  function decide(rows, answer) {
    if (!rows.length) return;
    queue.add({ cells: rows.map((row) => [row, answer ?? bestOf(row)]) });
    for (const row of rows) if (tiles.has(row)) refresh(row);
    drawCounts();
    say(rows.length === 1 ? `${CELLS[rows[0]].id}: ${answerOf(rows[0])}` : `${rows.length} cells: ${answer ?? "accepted"}`);
  }

  /** Of the chosen cells, or the current one; null accepts what was predicted. */
  function answer(said) {
    if (!shown.length) return;
    const rows = chosen.size ? [...chosen] : [current()];
    const last = Math.max(...rows.map((row) => shown.indexOf(row)));
    decide(rows, said);
    const told = byId("said").textContent;
    go(last + 1);
    if (last + 1 >= shown.length) say(`${told}. The last cell of this list; the key . shows the next class`);
  }

  const acceptAll = () => {
    decide(shown.slice(0, drawn).filter((row) => !answerOf(row)), null);
    go(drawn - 1);
  };

  queue.saved = (step, result) => {
    byId("saved").textContent = `saved ${new Date().toLocaleTimeString("en-GB")}`;
    byId("saved").className = "";
    byId("problem").textContent = "";
    if (step.undo) undone(result.changes);
    else if (result.repeated) for (const row of shown.slice(0, drawn)) refresh(row);
    drawCounts();
  };

  function undone(changes) {
    for (const [row] of changes) if (tiles.has(row)) refresh(row);
    if (!changes.length) {
      say("nothing is left to be taken back");
      return;
    }
    const [row] = changes[changes.length - 1];
    if (CELLS[row].answer !== group || !shown.includes(row)) show(CELLS[row].answer, row);
    go(shown.indexOf(row));
    say(`taken back: ${changes.length === 1 ? CELLS[row].id : `${changes.length} cells`}`);
  }

  /** The cells whose decisions are not saved, to be decided again elsewhere. */
  function unsaved() {
    const told = [...ahead].map(([row, answer]) => `${CELLS[row].id} (${answer})`);
    const undos = waiting.filter((step) => step.undo).length;
    const rest = told.length > MOST_TOLD ? [`${told.length - MOST_TOLD} more`] : [];
    return [...told.slice(0, MOST_TOLD), ...rest, ...(undos ? [`${undos} steps taken back`] : [])].join(", ");
  }

  queue.failed = (error, shut = false) => {
    const count = waiting.length;
    byId("saved").textContent = `not saved: ${count} ${count === 1 ? "step waits" : "steps wait"}`;
    byId("saved").className = "failed";
    byId("problem").textContent = shut
      ? `The program was ended or started anew, and takes nothing of this page any more. Open its new address, and decide again what is not saved: ${unsaved() || "nothing"}.`
      : error instanceof TypeError
        ? "The program does not answer. Leave this page open: what waits is sent as soon as it does. Once it has ended, this page can save nothing more."
        : `${error.message}. What waits is sent again.`;
  };

  // Keys

  function named(text) {
    const wanted = text.trim().toLowerCase();
    const exact = DATA.classes.filter((name) => name.toLowerCase() === wanted);
    const near = exact.length ? exact : DATA.classes.filter((name) => wanted && name.toLowerCase().includes(wanted));
    return near.length === 1 ? near[0] : null;
  }

  const KEYS = {
    ArrowLeft: (event) => go(at - 1, event.shiftKey),
    ArrowRight: (event) => go(at + 1, event.shiftKey),
    ArrowUp: (event) => at >= columns() && go(at - columns(), event.shiftKey),
    ArrowDown: (event) => at + columns() < shown.length && go(at + columns(), event.shiftKey),
    Home: (event) => go(0, event.shiftKey),
    End: (event) => go(drawn - 1, event.shiftKey),
    Enter: () => answer(null),
    " ": () => answer(null),
    n: () => answer(DATA.notACell),
    "?": () => answer(DATA.unsure),
    u: () => queue.add({ undo: true }),
    "+": enlarge,
    "*": acceptAll,
    ".": () => goToGroup(1),
    ",": () => goToGroup(-1),
    "/": () => {
      byId("unnamed").textContent = "";
      byId("named").value = "";
      chooser.showModal();
    },
  };
  const OF_THE_GRID = ["Arrow", "Home", "End", "Enter", " "]; // elsewhere these keys are the browser's

  document.addEventListener("keydown", (event) => {
    const inField = event.target.closest("input, select, #chooser");
    if (event.ctrlKey || event.metaKey || event.altKey || inField || event.isComposing || byId("work").hidden) return;
    const ours = grid.contains(event.target) || event.target === large || event.target === document.body;
    if (!ours && OF_THE_GRID.some((key) => event.key.startsWith(key))) return;
    const name = CLASS_OF_KEY.get(event.key);
    const act = Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : name === undefined ? null : () => answer(name);
    if (!act) return;
    event.preventDefault();
    act(event);
  });

  // Mouse and touch

  grid.addEventListener("click", (event) => {
    const tile = event.target.closest("li");
    if (!tile) return;
    const row = Number(tile.dataset.row);
    if (event.ctrlKey || event.metaKey) {
      if (!chosen.delete(row)) chosen.add(row);
      refresh(row);
    } else go(shown.indexOf(row), event.shiftKey);
  });
  grid.addEventListener("dblclick", enlarge);
  // Whoever comes to the list by Tab is at the current cell.
  grid.addEventListener("focusin", (event) => {
    const place = shown.indexOf(Number(event.target.closest("li")?.dataset.row));
    if (place >= 0 && place !== at) at = place;
  });

  const key = (text) => (text ? element("kbd", {}, text) : null);
  const choice = (text, keys, act) => element("button", { type: "button", onclick: act }, `${text} `, [...keys].map(key));

  byId("groups").append(
    ...[...GROUPS.keys()].map((one) =>
      element("button", { type: "button", "data-group": one, onclick: () => (show(one), go(at)) }),
    ),
  );
  byId("choices").append(
    choice("Accept", ["Enter"], () => answer(null)),
    ...DATA.classes.map((name, place) => choice(name, DATA.keys[place], () => answer(name))),
    choice("Not a cell", "n", () => answer(DATA.notACell)),
    choice("Unsure", "?", () => answer(DATA.unsure)),
    choice("Undo", "u", () => queue.add({ undo: true })),
    choice("Enlarge", "+", enlarge),
  );
  byId("class-names").append(...DATA.classes.map((name) => element("option", { value: name })));
  byId("accept-all").addEventListener("click", acceptAll);
  byId("more").addEventListener("click", () => drawMore(drawn + AT_ONCE));
  byId("filter").addEventListener("change", () => list());
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("unchosen").addEventListener("click", () => chooser.close());
  byId("naming").addEventListener("submit", (event) => {
    event.preventDefault();
    const found = named(byId("named").value);
    if (found === null) {
      byId("unnamed").textContent = "No class, or several, have that in their name.";
      return;
    }
    chooser.close();
    answer(found);
  });

  // Beginning and end

  byId("finish").addEventListener("click", async () => {
    if (waiting.length) {
      say("Some steps are not saved yet");
      return;
    }
    try {
      const { reviewed } = await queue.asked("finish", {});
      const left = CELLS.length - reviewedOf([...CELLS.keys()]);
      byId("work").hidden = true;
      byId("ended").hidden = false;
      byId("ended").append(
        element("h2", {}, "Finished"),
        element("p", {}, left ? `${left} cells were not looked at.` : "Every cell was looked at."),
        element("p", {}, "Written: ", element("code", {}, reviewed)),
        element("p", {}, "The terminal names the next command. You may close this page."),
      );
      byId("ended").focus();
    } catch (error) {
      queue.failed(error, SHUT_OUT.includes(error.status));
    }
  });

  async function begin() {
    try {
      await queue.load();
    } catch (error) {
      byId("saved").textContent = "not loaded";
      byId("problem").textContent = error.message;
      if (!SHUT_OUT.includes(error.status)) setTimeout(begin, 2000);
      return;
    }
    byId("saved").textContent = written.size ? "all saved" : "nothing to save yet";
    byId("problem").textContent = "";
    show([...GROUPS.keys()].find((one) => GROUPS.get(one).some((row) => !answerOf(row))) ?? group);
    go(at);
  }
  begin();
})();
