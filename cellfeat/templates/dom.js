// Elements with text that is only ever text: nothing here reads markup.
"use strict";
const SVG = "http://www.w3.org/2000/svg";

/** An element; `options` are attributes, `on…` listeners; children are elements or texts. */
function element(tag, options = {}, ...children) {
  return filled(document.createElement(tag), options, children);
}

function drawing(tag, options = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), options, children);
}

function filled(made, options, children) {
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, part] of Object.entries(value)) made.style.setProperty(key, part);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

/** A table that scrolls sideways, reachable by keyboard. */
function scrolling(label, child) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, child);
}

/** Hand the reader a file. */
function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A block of text with a button that copies it. */
function copyable(text) {
  const said = (button, word) => {
    button.textContent = word;
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1500);
  };
  const select = (block) => {
    const range = document.createRange();
    range.selectNodeContents(block);
    const chosen = getSelection();
    chosen.removeAllRanges();
    chosen.addRange(range);
  };
  const block = element("pre", { tabindex: "0" }, text);
  const button = element(
    "button",
    {
      type: "button",
      class: "plain small no-print",
      onclick: async () => {
        // Pages from a disk may be refused the clipboard; then the text is selected for the reader.
        try {
          await navigator.clipboard.writeText(text);
          said(button, "Copied");
        } catch {
          select(block);
          said(button, "Selected");
        }
      },
    },
    "Copy",
  );
  return element("div", {}, block, button);
}
