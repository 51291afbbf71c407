// Two hits to be compared with each other: a third choice lets go of the first.

const MOST = 2;
let chosen = [];

function boxes() {
  return [...document.querySelectorAll("input[name=pick]")];
}

function describe() {
  const bar = document.querySelector(".picked");
  if (!bar) return;
  bar.hidden = chosen.length === 0;
  bar.querySelector("button").disabled = chosen.length !== MOST;
  bar.querySelector("[role=status]").textContent =
    chosen.length === MOST ? "Two studies are chosen." : "One study is chosen; choose another one.";
}

document.addEventListener("change", (event) => {
  if (!event.target.matches("input[name=pick]")) return;
  chosen = chosen.filter((value) => value !== event.target.value);
  if (event.target.checked) chosen.push(event.target.value);
  chosen = chosen.slice(-MOST);
  for (const box of boxes()) box.checked = chosen.includes(box.value);
  describe();
});

function adopt() {
  chosen = boxes().filter((box) => box.checked).map((box) => box.value).slice(-MOST);
  describe();
}

document.addEventListener("htmx:afterSwap", adopt);
window.addEventListener("pageshow", adopt);
adopt();
