// One side of the comparison: the slice that is looked at, through a window.

import { Slices } from "./slices.js";

const REST_MS = 150;
const LATE_MS = 300; // then it is said that a slice is still on its way
const OPPOSITE = { L: "R", R: "L", P: "A", A: "P", H: "F", F: "H" };

export class Pane {
  #element;
  #canvas;
  #image = document.createElement("canvas");
  #pixels;
  #table = new Uint32Array(65536);
  #tableOf = "";
  #slice;
  #base; // center and width that the images ask for, where windows are relative to them
  #window = { center: 0, width: 1 };
  #resting;

  constructor(element, side, isRelative) {
    this.#element = element.querySelector(".view");
    this.#canvas = this.#element.querySelector("canvas");
    this.#base = isRelative ? null : [0, 1];
    this.slices = new Slices(side.slices);
    this.index = side.start;
    this.#element.setAttribute("aria-valuemax", this.slices.count);
    const [right, bottom] = side.towards;
    for (const [edge, letter] of Object.entries({ right, bottom, left: OPPOSITE[right], top: OPPOSITE[bottom] })) {
      this.#element.querySelector(`.edge.${edge}`).textContent = letter;
    }
    new ResizeObserver(() => this.#draw()).observe(this.#element);
  }

  get view() {
    return this.#element;
  }

  get place() {
    return this.slices.places[this.index];
  }

  /** Show a slice; resolves once it is drawn, or another one was asked for meanwhile. */
  async show(index) {
    const direction = index - this.index;
    this.index = Math.min(Math.max(index, 0), this.slices.count - 1);
    this.#describe();
    const wanted = this.index;
    const late = setTimeout(() => this.#wait(wanted === this.index), LATE_MS);
    try {
      const slice = this.slices.peek(wanted) ?? (await this.slices.get(wanted));
      if (wanted !== this.index) return;
      this.#base ??= slice.window;
      this.#slice = slice;
      this.#complain("");
      this.#draw();
    } catch (error) {
      if (wanted === this.index) this.#complain(error.message);
    } finally {
      clearTimeout(late);
      if (wanted === this.index) this.#wait(false);
    }
    this.slices.prefetch(wanted, direction);
  }

  setWindow(window) {
    this.#window = window;
    this.#draw();
  }

  /** Draw at once, and more finely after a moment without another slice or window. */
  #draw() {
    if (!this.#slice) return;
    this.#paint(this.#slice);
    this.#enlarge("low");
    clearTimeout(this.#resting);
    this.#resting = setTimeout(() => this.#enlarge("high"), REST_MS);
  }

  #enlarge(quality) {
    const { rows, columns, pixel_mm: pixel } = this.#slice;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.#element.clientWidth * ratio, this.#element.clientHeight * ratio].map(Math.round);
    if (!width || !height) return;
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const scale = Math.min(width / (columns * pixel[1]), height / (rows * pixel[0]));
    const [w, h] = [columns * pixel[1] * scale, rows * pixel[0] * scale];
    const context = this.#canvas.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = quality;
    context.fillRect(0, 0, width, height);
    context.drawImage(this.#image, (width - w) / 2, (height - h) / 2, w, h);
  }

  /** Turn words into shades of grey by a table of all 65536 of them. */
  #paint(slice) {
    const context = this.#image.getContext("2d", { alpha: false });
    if (!this.#pixels || this.#image.width !== slice.columns || this.#image.height !== slice.rows) {
      this.#image.width = slice.columns;
      this.#image.height = slice.rows;
      this.#pixels = context.createImageData(slice.columns, slice.rows);
    }
    this.#prepareTable(slice);
    const shades = new Uint32Array(this.#pixels.data.buffer);
    const { words } = slice;
    const table = this.#table;
    for (let k = 0; k < words.length; k += 1) shades[k] = table[words[k] + 32768];
    context.putImageData(this.#pixels, 0, 0);
  }

  #prepareTable(slice) {
    const center = this.#base[0] + this.#window.center * this.#base[1];
    const width = Math.max(this.#window.width * this.#base[1], 1e-6);
    const made = [center, width, slice.slope, slice.intercept, slice.is_inverted].join();
    if (made === this.#tableOf) return;
    this.#tableOf = made;
    const low = center - width / 2;
    for (let k = 0; k < 65536; k += 1) {
      const share = (slice.slope * (k - 32768) + slice.intercept - low) / width;
      const shade = Math.round(255 * Math.min(Math.max(slice.is_inverted ? 1 - share : share, 0), 1));
      this.#table[k] = 0xff000000 | (shade << 16) | (shade << 8) | shade;
    }
    this.#element.querySelector(".window").textContent = `W ${signed(width)}  L ${signed(center)}`;
  }

  #describe() {
    const text = `${this.index + 1} / ${this.slices.count}`;
    const place = `${signed(this.place)} mm`;
    this.#element.querySelector(".slice").textContent = `${text}   ${place}`;
    this.#element.setAttribute("aria-valuenow", this.index + 1);
    this.#element.setAttribute("aria-valuetext", `slice ${text}, ${place}`);
  }

  #wait(isLate) {
    this.#element.setAttribute("aria-busy", isLate);
  }

  #complain(text) {
    const problem = this.#element.querySelector(".problem");
    problem.textContent = text;
    problem.hidden = !text;
    this.#canvas.classList.toggle("stale", Boolean(text));
  }
}

/** A number as it is printed: whole, or with two digits where it is small. */
function signed(value) {
  const size = Math.abs(value);
  const digits = size !== 0 && size < 10 ? String(Number(size.toPrecision(2))) : String(Math.round(size));
  return `${value < 0 && digits !== "0" ? "−" : ""}${digits}`;
}
