// What all pages share: the theme button.
"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const remember = (theme) => {
    try {
      localStorage.setItem("cellfeat-theme", theme);
    } catch {
      /* private windows keep nothing */
    }
  };
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `${button.textContent} theme`);
  };
  try {
    const kept = localStorage.getItem("cellfeat-theme");
    if (kept) root.dataset.theme = kept;
  } catch {
    /* as above */
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
  show();
})();
