// The slices of one series as 16-bit words: fetched ahead of need, kept in memory up to a budget.

const BUDGET_BYTES = 192 * 2 ** 20;
const AT_ONCE = 2; // and as many for the other series: browsers open six connections, what is needed now finds one free
const AHEAD = 16;
const BEHIND = 6;

export class Slices {
  #urls;
  #kept = new Map(); // index to slice, least recently used first
  #loading = new Map(); // index to promise
  #queue = [];
  #bytes = 0;

  /** @param {[string, number][]} slices address and place (mm) of each */
  constructor(slices) {
    this.#urls = slices.map(([url]) => url);
    this.places = slices.map(([, mm]) => mm);
  }

  get count() {
    return this.places.length;
  }

  /** Index of the slice nearest to a place. */
  nearest(mm) {
    let best = 0;
    for (let k = 1; k < this.places.length; k += 1) {
      if (Math.abs(this.places[k] - mm) < Math.abs(this.places[best] - mm)) best = k;
    }
    return best;
  }

  /** The slice if it is here already. */
  peek(index) {
    const found = this.#kept.get(index);
    if (found) {
      this.#kept.delete(index);
      this.#kept.set(index, found);
    }
    return found;
  }

  async get(index) {
    return this.peek(index) ?? this.#load(index);
  }

  /** Fetch the neighbours of a slice, those in the direction of scrolling first. */
  prefetch(index, direction) {
    const step = direction < 0 ? -1 : 1;
    const wanted = [];
    for (let k = 1; k <= AHEAD; k += 1) {
      wanted.push(index + step * k);
      if (k <= BEHIND) wanted.push(index - step * k);
    }
    this.#queue = wanted.filter((k) => k >= 0 && k < this.count && !this.#kept.has(k));
    this.#fill();
  }

  #fill() {
    while (this.#loading.size < AT_ONCE && this.#queue.length) {
      const index = this.#queue.shift();
      if (!this.#kept.has(index) && !this.#loading.has(index)) {
        this.#load(index).catch(() => {}); // asked for again, and complained about, when it is needed
      }
    }
  }

  #load(index) {
    const known = this.#loading.get(index);
    if (known) return known;
    const loading = fetchSlice(this.#urls[index]).then(
      (slice) => {
        this.#keep(index, slice);
        return slice;
      },
    ).finally(() => {
      this.#loading.delete(index);
      this.#fill();
    });
    this.#loading.set(index, loading);
    return loading;
  }

  #keep(index, slice) {
    this.#kept.set(index, slice);
    this.#bytes += slice.words.byteLength;
    for (const [oldest, dropped] of this.#kept) {
      if (this.#bytes <= BUDGET_BYTES || oldest === index) break;
      this.#kept.delete(oldest);
      this.#bytes -= dropped.words.byteLength;
    }
  }
}

async function fetchSlice(url) {
  const answer = await fetch(url, { headers: { Accept: "application/octet-stream, application/json" } });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail ?? `the node answers ${answer.status}`);
  }
  const described = JSON.parse(answer.headers.get("Picture"));
  return { ...described, words: new Int16Array(await answer.arrayBuffer()) };
}
