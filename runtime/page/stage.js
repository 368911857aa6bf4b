// The picture and what lies on it: colours, outlines, the segment under the pointer.

import { segmentMap } from "./masks.js";

const LONGEST = 1440; // of a canvas: a phone has no use for more, nor memory
const LARGEST = 3; // times its size is a small image shown, for thin lines
const DIMMED = 64; // of 255, for all but the segment that is looked at

export class Stage extends EventTarget {
  constructor(root) {
    super();
    this.root = root;
    this.canvases = Object.fromEntries(
      ["plain", "picture", "masks", "outlines"].map((name) => [name, root.querySelector(`#${name}`)]),
    );
    this.tip = root.querySelector("#tip");
    this.segments = [];
    this.map = null;
    this.chosen = 0; // place in the list from 1
    const layers = root.querySelector(".layers");
    layers.addEventListener("pointermove", (event) => this.#point(event));
    layers.addEventListener("pointerdown", (event) => this.#point(event));
    layers.addEventListener("pointerleave", () => this.#tell(0));
  }

  // `image`: anything a canvas draws; `answer`: the server's, whose segments lie on it.
  show(image, answer) {
    const scale = Math.min(LARGEST, LONGEST / Math.max(answer.width, answer.height));
    this.width = Math.max(1, Math.round(answer.width * scale));
    this.height = Math.max(1, Math.round(answer.height * scale));
    for (const canvas of Object.values(this.canvases)) {
      if (canvas.width !== this.width || canvas.height !== this.height) {
        canvas.width = this.width;
        canvas.height = this.height;
      }
    }
    for (const name of ["plain", "picture"]) {
      this.canvases[name].getContext("2d").drawImage(image, 0, 0, this.width, this.height);
    }
    this.root.style.setProperty("--ratio", this.width / this.height);
    this.root.classList.remove("empty");
    this.segments = answer.segments;
    this.map = segmentMap(answer.segments, [answer.height, answer.width], [this.height, this.width]);
    if (this.chosen > this.segments.length) this.chosen = 0;
    this.#paint();
  }

  set view(name) {
    this.root.dataset.view = name;
  }

  set opacity(part) {
    this.canvases.masks.style.opacity = part;
  }

  // Brings one segment out; 0: none.
  choose(place) {
    if (place === this.chosen) return;
    this.chosen = place;
    if (this.map) this.#paint();
  }

  #paint() {
    const { map, width, height, chosen } = this;
    const palette = new Uint32Array(this.segments.length + 1);
    this.segments.forEach(({ color: [red, green, blue] }, index) => {
      const alpha = chosen && chosen !== index + 1 ? DIMMED : 255;
      palette[index + 1] = rgba(red, green, blue, alpha);
    });
    const masks = new ImageData(width, height);
    const outlines = new ImageData(width, height);
    const paint = new Uint32Array(masks.data.buffer);
    const lines = new Uint32Array(outlines.data.buffer);
    const line = rgba(255, 255, 255, chosen ? 90 : 215);
    const strong = rgba(255, 255, 255, 255);
    const edge = rgba(10, 12, 14, 255);
    for (let y = 0, place = 0; y < height; y++) {
      for (let x = 0; x < width; x++, place++) {
        const here = map[place];
        paint[place] = palette[here];
        const right = x + 1 < width ? map[place + 1] : here;
        const below = y + 1 < height ? map[place + width] : here;
        if (here === right && here === below) continue;
        if (chosen && (here === chosen || right === chosen || below === chosen)) {
          lines[place] = strong;
          if (place >= width && lines[place - width] !== strong) lines[place - width] = edge;
        } else if (here) {
          lines[place] = line;
        }
      }
    }
    this.canvases.masks.getContext("2d").putImageData(masks, 0, 0);
    this.canvases.outlines.getContext("2d").putImageData(outlines, 0, 0);
  }

  #point(event) {
    if (!this.map) return;
    const box = this.canvases.picture.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * this.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.height);
    const inside = x >= 0 && y >= 0 && x < this.width && y < this.height;
    const place = inside ? this.map[y * this.width + x] : 0;
    this.#tell(place);
    if (place) {
      const left = event.clientX - box.left;
      this.tip.style.left = `${Math.min(Math.max(left, 70), box.width - 70)}px`;
      this.tip.style.top = `${Math.max(event.clientY - box.top, 44)}px`;
    }
  }

  #tell(place) {
    const segment = this.segments[place - 1];
    this.tip.hidden = !segment;
    if (segment) this.tip.textContent = `${segment.label}  ${segment.score.toFixed(2)}`;
    if (place === this.chosen) return;
    this.choose(place);
    this.dispatchEvent(new CustomEvent("choose", { detail: place }));
  }
}

// A pixel of an ImageData's buffer, in the byte order of every machine that a browser runs on.
function rgba(red, green, blue, alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
