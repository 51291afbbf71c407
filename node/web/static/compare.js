// Two studies side by side: keys, mouse, and what links the two.

import { Ladder } from "./ladder.js";
import { Link } from "./link.js";
import { Pane } from "./pane.js";

const PAGE = 10;
const WHEEL_PX = 60; // of scrolling to the next slice
const DRAG_SHARE = 0.004; // of the window's width, a pixel

const data = JSON.parse(document.getElementById("comparison").textContent);
const panes = [...document.querySelectorAll(".pane")].map(
  (element, side) => new Pane(element, data.sides[side], data.isRelative),
);
const link = new Link(data.anchors);
const ladder = new Ladder(document.querySelector(".ladder"), panes, data.levels, scrollTo);
const linkButton = document.querySelector("button.link");
const presetButtons = [...document.querySelectorAll("button.preset")];
const help = document.querySelector("dialog.help");

let active = 0;
let isLinked = link.isPossible;
let match = data.levels.length ? 0 : -1;
let shown = { center: data.window?.[0] ?? 0, width: data.window?.[1] ?? 1 };

function scrollTo(side, index) {
  const start = performance.now();
  const drawn = [panes[side].show(index)];
  if (isLinked) {
    const other = panes[1 - side];
    drawn.push(other.show(other.slices.nearest(link.across(panes[side].place, side))));
  }
  ladder.update(match);
  return measured("next-slice", start, drawn);
}

function scrollBy(side, slices) {
  return scrollTo(side, panes[side].index + slices);
}

/** Note how long it took until what was drawn is on the screen. */
async function measured(name, start, drawn) {
  await Promise.all(drawn);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  performance.measure(name, { start, end: performance.now() });
}

function goToMatch(number) {
  if (!data.levels.length) return Promise.resolve();
  match = (number + data.levels.length) % data.levels.length;
  link.offset = 0;
  const start = performance.now();
  const level = data.levels[match];
  const places = [middle(level.left_mm), middle(level.right_mm)];
  const drawn = panes.map((pane, side) => pane.show(pane.slices.nearest(places[side])));
  describeMatch();
  describeLink();
  ladder.update(match);
  return measured("next-match", start, drawn);
}

function middle([low, high]) {
  return (low + high) / 2;
}

function setWindow(center, width) {
  shown = { center, width };
  panes.forEach((pane) => pane.setWindow(shown));
  presetButtons.forEach((button, number) => {
    const preset = data.presets[number];
    button.setAttribute("aria-pressed", preset.center === center && preset.width === width);
  });
}

function usePreset(number) {
  const preset = data.presets[number];
  if (preset) setWindow(preset.center, preset.width);
}

function toggleLink() {
  if (!link.isPossible) return;
  isLinked = !isLinked;
  if (isLinked) link.hold(panes[0].place, panes[1].place);
  describeLink();
}

function describeLink() {
  const offset = Math.round(link.offset);
  const text = isLinked ? `Linked${offset ? ` ${offset > 0 ? "+" : "−"}${Math.abs(offset)} mm` : ""}` : "Not linked";
  linkButton.querySelector("span").textContent = link.isPossible ? text : "Cannot be linked";
  linkButton.setAttribute("aria-pressed", isLinked);
  linkButton.disabled = !link.isPossible;
}

function describeMatch() {
  const text = match < 0 ? "no match" : `match ${match + 1} of ${data.levels.length} · ${data.levels[match].similarity.toFixed(2)}`;
  document.querySelector("output.match").textContent = text;
  document.querySelectorAll("button.step").forEach((button) => {
    button.disabled = match < 0;
  });
}

function activate(side) {
  active = side;
  panes.forEach((pane, number) => pane.view.classList.toggle("active", number === side));
}

const KEYS = {
  ArrowUp: () => scrollBy(active, -1),
  ArrowDown: () => scrollBy(active, 1),
  PageUp: () => scrollBy(active, -PAGE),
  PageDown: () => scrollBy(active, PAGE),
  Home: () => scrollTo(active, 0),
  End: () => scrollTo(active, panes[active].slices.count - 1),
  ArrowLeft: () => panes[0].view.focus(),
  ArrowRight: () => panes[1].view.focus(),
  n: () => goToMatch(match + 1),
  p: () => goToMatch(match - 1),
  l: toggleLink,
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open || event.target.closest("select, input")) return;
  const act = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (act) act();
  else if (/^[1-9]$/.test(event.key)) usePreset(Number(event.key) - 1);
  else return;
  event.preventDefault();
});

panes.forEach((pane, side) => {
  let turned = 0;
  let drag = null;
  pane.view.addEventListener("focus", () => activate(side));
  pane.view.addEventListener("wheel", (event) => {
    event.preventDefault();
    turned += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / WHEEL_PX : Math.sign(event.deltaY);
    const slices = Math.trunc(turned);
    if (slices) {
      turned -= slices;
      scrollBy(side, slices);
    }
  }, { passive: false });
  pane.view.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, y: event.clientY, ...shown };
    pane.view.setPointerCapture(event.pointerId);
  });
  pane.view.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const width = drag.width * Math.exp((event.clientX - drag.x) * DRAG_SHARE);
    const center = drag.center + (event.clientY - drag.y) * DRAG_SHARE * drag.width;
    setWindow(center, width);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pane.view.addEventListener(end, () => {
      drag = null;
    });
  }
});

presetButtons.forEach((button, number) => button.addEventListener("click", () => usePreset(number)));
linkButton.addEventListener("click", toggleLink);
document.querySelector("button.previous").addEventListener("click", () => goToMatch(match - 1));
document.querySelector("button.next").addEventListener("click", () => goToMatch(match + 1));
document.querySelector("button.keys").addEventListener("click", () => help.showModal());
document.querySelectorAll("select.choice").forEach((select) => {
  select.addEventListener("change", () => select.form.requestSubmit());
});

setWindow(shown.center, shown.width);
describeLink();
describeMatch();
activate(0);
measured("first-paint", 0, panes.map((pane) => pane.show(pane.index))).then(() => {
  document.body.dataset.ready = "true";
});
ladder.update(match);
panes[0].view.focus({ preventScroll: true });
