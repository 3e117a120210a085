// Steps on their way to the program: one at a time, in order, until it says that they are on the disk.
"use strict";
const CLIENT = [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
const FIRST_PAUSE = 300,
  LONGEST_PAUSE = 5000; // ms before a step is sent again
const SHUT_OUT = [403, 404, 409]; // another program, or another table, is at this address: asking again is no use
const KEPT_ALIVE = 60000; // characters that a browser still sends when the page is closed

const queue = (() => {
  let number = 0; // of the last step; the program takes none twice
  let steps = 0; // in the journal, as far as this page knows
  let sending = false;
  let pause = FIRST_PAUSE,
    again = 0;
  let shut = false; // the program takes no step of this page any more

  async function asked(what, body) {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const answer = await fetch(what, {
      method: body === undefined ? "GET" : "POST",
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: text,
      keepalive: text !== undefined && text.length < KEPT_ALIVE,
    });
    if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
    return answer.json();
  }

  async function load() {
    const state = await asked("state");
    written.clear();
    for (const [row, answer] of state.decisions) written.set(row, answer);
    steps = state.steps;
  }

  function add(step) {
    if (shut) {
      queue.failed(new Error(""), shut);
      return;
    }
    waiting.push({ table: DATA.table, client: CLIENT, number: ++number, ...step });
    lookAhead();
    send();
  }

  async function send() {
    if (sending || shut || !waiting.length) return;
    sending = true;
    const step = waiting[0];
    try {
      const answer = await asked("decisions", step);
      waiting.shift();
      for (const [row, said] of answer.changes) isWritten(row, said);
      steps += 1;
      // Another window has decided too, or this step had arrived before: what the program has is right.
      if (answer.repeated || answer.steps !== steps) await load();
      pause = FIRST_PAUSE;
      lookAhead();
      queue.saved(step, answer);
    } catch (error) {
      shut = SHUT_OUT.includes(error.status);
      queue.failed(error, shut);
      clearTimeout(again);
      if (!shut) again = setTimeout(send, pause);
      pause = Math.min(2 * pause, LONGEST_PAUSE);
    }
    sending = false;
    if (pause === FIRST_PAUSE) send();
  }

  // A page that is closed now would take decisions with it.
  addEventListener("beforeunload", (event) => {
    if (waiting.length) event.preventDefault();
  });

  return { asked, load, add, saved: () => {}, failed: () => {} };
})();
