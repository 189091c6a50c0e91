const main = document.querySelector("main"), by = document.getElementById("by"), only = document.getElementById("only");
const hint = document.getElementById("hint"), hints = JSON.parse(hint.dataset.hints);
const cards = [...main.children].map((node, place) => ({
  node, place, p: JSON.parse(node.dataset.p), called: JSON.parse(node.dataset.c)}));
function show() {
  const k = Number(by.value);
  cards.sort((a, b) => k < 0 ? a.place - b.place : (b.p[k] ?? -1) - (a.p[k] ?? -1) || a.place - b.place);
  for (const card of cards) {
    card.node.hidden = only.checked && k >= 0 && !card.called[k];
    [...card.node.querySelectorAll("tr")].forEach((row, j) => row.classList.toggle("sorted", j === k));
    main.append(card.node);
  }
  hint.textContent = k < 0 ? "" : hints[k];
}
by.addEventListener("change", show);
only.addEventListener("change", show);
