"use strict";
const rows = [...document.querySelectorAll("#edits tbody tr")];
const words = document.getElementById("words");
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/);
  for (const row of rows) row.hidden = !wanted.every(word => row.textContent.toLowerCase().includes(word));
  document.getElementById("count").textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
}
words.addEventListener("input", filter);
filter();
document.querySelectorAll("#edits th").forEach((head, column) => {
  let way = -1;
  head.addEventListener("click", () => {
    way = -way;
    const text = row => row.cells[column].textContent.trim();
    rows.sort((a, b) => way * (text(a) - text(b) || text(a).localeCompare(text(b)))); // as numbers, where both are
    document.querySelector("#edits tbody").append(...rows);
  });
});
