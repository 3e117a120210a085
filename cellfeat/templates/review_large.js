// A closer look at the current cell.
"use strict";
const large = byId("large");

function drawLarge() {
  const row = current(),
    cell = CELLS[row];
  const likely = [...cell.chances.keys()].sort((a, b) => cell.chances[b] - cell.chances[a]).slice(0, 8);
  const parts = [
    element("h2", { id: "large-name" }, cell.id),
    element("img", { src: `pictures/${row}/large`, alt: `The cell ${cell.id}` }),
    element("p", {}, answerOf(row) ? `Reviewed: ${answerOf(row)}` : "Not yet reviewed"),
    cell.flags.length ? element("p", {}, cell.flags.join(", ")) : null,
    cell.set.length ? element("p", {}, `Prediction set: ${cell.set.join(", ")}`) : null,
    element(
      "table",
      {},
      element("caption", {}, "Probabilities"),
      likely.map((place) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, DATA.classes[place]),
          element("td", { class: "n" }, cell.chances[place].toFixed(3)),
        ),
      ),
    ),
    element("button", { type: "button", onclick: () => large.close() }, "Close"),
  ];
  large.replaceChildren(...parts.filter(Boolean));
}

function enlarge() {
  if (large.open) large.close();
  else if (shown.length) {
    drawLarge();
    large.showModal();
    large.focus();
  }
}
large.addEventListener("close", () => tileOf(current()).focus());
