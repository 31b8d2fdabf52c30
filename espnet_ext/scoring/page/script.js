"use strict";
// Sort by a column: numbers by value, empty cells last in either direction, names as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", other === head ? (down ? "descending" : "ascending") : "none"));
    const key = (row) => column === 0 ? row.cells[0].textContent : row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, other) => {
      const first = key(one), second = key(other);
      if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
      const order = column === 0 ? first.localeCompare(second) : Number(first) - Number(second);
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }));
}
// One plot at a time.
for (const choose of document.querySelectorAll("select.choose")) {
  choose.addEventListener("change", () => {
    for (const plot of document.querySelectorAll(`.plot[data-set="${choose.dataset.set}"]`)) plot.hidden = plot.dataset.key !== choose.value;
  });
}
// One sound at a time.
document.addEventListener("play", (event) => {
  for (const audio of document.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
}, true);
// From a word on.
for (const word of document.querySelectorAll("[data-start]")) {
  word.addEventListener("click", () => {
    const audio = word.closest("td").querySelector("audio");
    audio.currentTime = Number(word.dataset.start);
    audio.play();
  });
}
// What goes on to the right fades there.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => {
    const isMore = box.scrollWidth - box.clientWidth - box.scrollLeft > 1;
    box.classList.toggle("more", isMore);
    if (box.previousElementSibling?.matches(".hint")) box.previousElementSibling.hidden = box.scrollWidth - box.clientWidth <= 1;
  };
  box.addEventListener("scroll", look);
  new ResizeObserver(look).observe(box);
}
