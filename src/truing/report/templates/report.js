"use strict";
// Filtering only: without this script the page shows everything. It reads attributes, never makes markup.
(() => {
  const words = document.getElementById("filter-words");
  const misaligned = document.getElementById("filter-misaligned");
  const count = document.getElementById("filter-count");
  const items = [...document.querySelectorAll("[data-words]")];
  const groups = [...document.querySelectorAll("[data-group], .category")];
  const runs = items.filter((item) => item.matches("article.run"));

  // A number is a whole word: "seed 1" must not find every learning rate of 0.001.
  const matches = (text, term) => (/^[\d.]+$/.test(term) ? ` ${text} `.includes(` ${term} `) : text.includes(term));

  const apply = () => {
    const terms = words ? words.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const only = Boolean(misaligned && misaligned.checked);
    for (const item of items) {
      const found = terms.every((term) => matches(item.dataset.words, term));
      item.hidden = !found || (only && item.dataset.misaligned === "no");
    }
    for (const group of groups) group.hidden = !group.querySelector("[data-words]:not([hidden])");
    for (const more of document.querySelectorAll("details.more")) {
      const left = more.querySelectorAll("[data-words]:not([hidden])").length;
      more.hidden = left === 0;
      more.open = terms.length > 0 && left > 0 && left <= 24;
    }
    const shown = runs.filter((run) => !run.hidden).length;
    if (count) count.textContent = terms.length ? `${shown} of ${runs.length}` : "";
  };

  const bars = { filters: runs.length > 1, "sample-filters": items.some((item) => "misaligned" in item.dataset) };
  for (const [id, useful] of Object.entries(bars)) {
    const bar = document.getElementById(id);
    if (bar) bar.hidden = !useful;
  }
  if (words) words.addEventListener("input", apply);
  if (misaligned) misaligned.addEventListener("change", apply);
})();
