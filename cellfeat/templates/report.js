// What a report adds: what an address points into is unfolded, and pictures are printed.
"use strict";
(() => {
  const unfold = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    for (let one = id && document.getElementById(id); one; one = one.parentElement)
      if (one.tagName === "DETAILS") one.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details.gallery:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });
})();
