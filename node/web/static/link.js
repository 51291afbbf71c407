// From a place on one side to the same level on the other: interpolated between anchors, running along beyond them.

export class Link {
  #anchors;
  /** How far (mm) the right side is kept from where the anchors would have it. */
  offset = 0;

  /** @param {[number, number][]} anchors left and right place (mm), increasing */
  constructor(anchors) {
    this.#anchors = anchors;
  }

  get isPossible() {
    return this.#anchors.length > 0;
  }

  /** @param {number} side 0 where `mm` is a place on the left, 1 on the right */
  across(mm, side) {
    if (side === 0) return interpolate(this.#anchors, mm, 0) + this.offset;
    return interpolate(this.#anchors, mm - this.offset, 1);
  }

  /** Keep two sides as far apart as they are now. */
  hold(left, right) {
    this.offset = 0;
    this.offset = right - this.across(left, 0);
  }
}

function interpolate(anchors, mm, from) {
  const to = 1 - from;
  const after = anchors.findIndex((anchor) => anchor[from] >= mm);
  if (after === 0) return anchors[0][to] + mm - anchors[0][from];
  if (after < 0) {
    const last = anchors[anchors.length - 1];
    return last[to] + mm - last[from];
  }
  const [low, high] = [anchors[after - 1], anchors[after]];
  const share = (mm - low[from]) / (high[from] - low[from]);
  return low[to] + share * (high[to] - low[to]);
}
