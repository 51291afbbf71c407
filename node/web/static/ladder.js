// Both series as bars along the patient, their matched levels as rungs between them, and where one looks.

const SVG = "http://www.w3.org/2000/svg";
const BAR = 14; // share of the width, per cent

export class Ladder {
  #svg;
  #panes;
  #levels;
  #markers;
  #rungs;

  /** @param onScroll called with side and slice index */
  constructor(svg, panes, levels, onScroll) {
    this.#svg = svg;
    this.#panes = panes;
    this.#levels = levels;
    svg.setAttribute("viewBox", "0 0 100 1000");
    svg.setAttribute("preserveAspectRatio", "none");
    this.#rungs = levels.map((level) => this.#rung(level)).reverse(); // the best on top
    for (const rung of this.#rungs) svg.append(rung);
    this.#rungs.reverse();
    svg.append(this.#bar(0), this.#bar(1));
    this.#markers = [this.#line("marker"), this.#line("marker"), this.#line("tie")];
    svg.append(...this.#markers);
    this.#listen(onScroll);
  }

  update(current) {
    const at = this.#panes.map((pane, side) => this.#height(side, pane.place));
    const ends = [
      [0, at[0], BAR, at[0]],
      [100 - BAR, at[1], 100, at[1]],
      [BAR, at[0], 100 - BAR, at[1]],
    ];
    this.#markers.forEach((marker, number) => {
      ["x1", "y1", "x2", "y2"].forEach((name, k) => marker.setAttribute(name, ends[number][k]));
    });
    this.#rungs.forEach((rung, number) => rung.classList.toggle("current", number === current));
  }

  /** From 0, the first slice, to 1000, the last one. */
  #height(side, mm) {
    const { places } = this.#panes[side].slices;
    const [first, last] = [places[0], places[places.length - 1]];
    const share = first === last ? 0.5 : (mm - first) / (last - first);
    return 1000 * Math.min(Math.max(share, 0), 1);
  }

  #rung(level) {
    const left = level.left_mm.map((mm) => this.#height(0, mm));
    const right = level.right_mm.map((mm) => this.#height(1, mm));
    const points = [[BAR, left[0]], [100 - BAR, right[0]], [100 - BAR, right[1]], [BAR, left[1]]];
    const found = make("polygon", { class: "rung", points: points.map((point) => point.join()).join(" ") });
    const opacity = 0.06 + 0.5 * Math.max(0, level.similarity - 0.5);
    found.setAttribute("fill-opacity", opacity.toFixed(3));
    return found;
  }

  #bar(side) {
    return make("rect", { class: "extent", x: side ? 100 - BAR : 0, y: 0, width: BAR, height: 1000 });
  }

  #line(name) {
    return make("line", { class: name, "vector-effect": "non-scaling-stroke" });
  }

  #listen(onScroll) {
    const scroll = (event) => {
      const box = this.#svg.getBoundingClientRect();
      const side = Number(this.#svg.dataset.side);
      const share = (event.clientY - box.top) / box.height;
      onScroll(side, Math.round(share * (this.#panes[side].slices.count - 1)));
    };
    this.#svg.addEventListener("pointerdown", (event) => {
      const box = this.#svg.getBoundingClientRect();
      this.#svg.dataset.side = event.clientX < box.left + box.width / 2 ? 0 : 1;
      this.#svg.setPointerCapture(event.pointerId);
      scroll(event);
    });
    this.#svg.addEventListener("pointermove", (event) => {
      if (this.#svg.hasPointerCapture(event.pointerId)) scroll(event);
    });
  }
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
