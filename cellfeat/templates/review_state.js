// The cells, what was said of each, and which of them are shown.
"use strict";
const DATA = JSON.parse(byId("data").textContent);
const CELLS = DATA.cells;
const OTHER_ANSWERS = [DATA.notACell, DATA.unsure];
const NO_ANSWER = -1; // the group of cells for which the method abstained
const AT_ONCE = 120; // cells that are drawn before more are asked for

const written = new Map(); // row -> answer that the program has on the disk
let waiting = []; // steps that it has not confirmed, oldest first
let ahead = new Map(); // row -> answer of those steps

const answerOf = (row) => ahead.get(row) ?? written.get(row) ?? "";
const bestOf = (row) => DATA.classes[CELLS[row].best];
const groupName = (group) => (group === NO_ANSWER ? "no answer" : DATA.classes[group]);

const FILTERS = {
  all: () => true,
  left: (row) => !answerOf(row),
  done: (row) => Boolean(answerOf(row)),
  novel: (row) => CELLS[row].flags.includes("novel"),
  doubt: (row) => CELLS[row].flags.includes("touching") || CELLS[row].flags.includes("cut"),
  low: (row) => CELLS[row].probability < 0.8,
  lowest: (row) => CELLS[row].probability < 0.5,
};

/** {group: its rows, least sure first}, in the order of the classes; cells without an answer come first. */
const GROUPS = new Map(
  [NO_ANSWER, ...DATA.classes.keys()]
    .map((group) => [
      group,
      [...CELLS.keys()]
        .filter((row) => CELLS[row].answer === group)
        .sort((a, b) => CELLS[a].probability - CELLS[b].probability || a - b),
    ])
    .filter(([, rows]) => rows.length),
);

/** Steps that wait are shown as if they were written. */
function lookAhead() {
  ahead = new Map(waiting.flatMap((step) => step.cells ?? []));
}

function isWritten(row, answer) {
  if (answer) written.set(row, answer);
  else written.delete(row);
}

const reviewedOf = (rows) => rows.reduce((count, row) => count + (answerOf(row) ? 1 : 0), 0);

/** "accepted", "corrected", "other" (not a cell, unsure) or "". */
function stateOf(row) {
  const answer = answerOf(row);
  if (!answer) return "";
  if (OTHER_ANSWERS.includes(answer)) return "other";
  return answer === bestOf(row) ? "accepted" : "corrected";
}

/** The class that a key stands for, or undefined. */
const CLASS_OF_KEY = new Map(DATA.keys.flatMap((keys, place) => [...keys].map((key) => [key, DATA.classes[place]])));
