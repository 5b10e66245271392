"use strict";
const rows = [...document.querySelectorAll("#edits tbody tr")];
const words = document.getElementById("words"), fate = document.getElementById("fate");
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !(wanted.every(word => text.includes(word)) && (!fate.value || row.dataset.fate === fate.value));
    shown += !row.hidden;
  }
  document.getElementById("count").textContent = `${shown} of ${rows.length}`;
}
words.addEventListener("input", filter);
fate.addEventListener("input", filter);
filter();
document.querySelectorAll("#edits th").forEach((head, column) => {
  let up = false;
  head.addEventListener("click", () => {
    up = !up;
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)], [m, n] = [parseFloat(x), parseFloat(y)];
      const order = isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
      return up ? order : -order;
    });
    document.querySelector("#edits tbody").append(...rows);
  });
});
for (const mode of document.getElementsByName("mode"))
  mode.addEventListener("change", () => { document.body.className = mode.value; });
document.querySelectorAll("#edits a").forEach(link => link.addEventListener("click", () => {
  document.getElementById(link.hash.slice(1)).open = true;
}));
