// The latest images' milliseconds as stacked bars, and what they come to.

const STEPS = ["queue", "decode", "preprocess", "network", "postprocess", "encode"];
const REST = "rest"; // of the time that the page saw: the way there and back, and the wait for a camera's next frame
const MOST = 80; // bars

export class Chart {
  constructor(canvas, figures, legend) {
    this.canvas = canvas;
    this.figures = figures;
    this.samples = [];
    for (const step of [...STEPS, REST]) {
      const entry = document.createElement("li");
      entry.dataset.step = step;
      entry.append(step === REST ? "way and wait" : step, document.createElement("b"));
      legend.append(entry);
    }
    this.entries = [...legend.children];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // `times`: the server's, "network_ms" and so on; `total`: milliseconds as the page saw them.
  add(times, total) {
    this.samples.push({ times, total });
    if (this.samples.length > MOST) this.samples.shift();
    const totals = this.samples.map((sample) => sample.total).sort((one, other) => one - other);
    const count = totals.length;
    const median = totals[Math.floor((count - 1) / 2)];
    this.figures.textContent =
      `${milliseconds(total)} last · ${milliseconds(median)} median · ${milliseconds(totals[count - 1])} slowest ` +
      `of ${count}, with the way there and back`;
    const all = { ...times, [`${REST}_ms`]: rest(times, total) };
    this.entries.forEach((entry) => {
      const value = all[`${entry.dataset.step}_ms`]; // a frame is neither queued nor decoded
      entry.lastChild.textContent = value === undefined ? "–" : milliseconds(value);
    });
    this.draw();
  }

  draw() {
    const { canvas, samples } = this;
    const ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    if (!samples.length) return;
    const top = rounded(Math.max(10, ...samples.map((sample) => sample.total)));
    context.font = `11px ${style.fontFamily}`;
    context.fillStyle = context.strokeStyle = style.color;
    context.globalAlpha = 0.35;
    for (const part of [0.5, 1]) {
      const y = Math.round(height - part * (height - 14)) + 0.5;
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(width, y);
      context.lineWidth = 1;
      context.stroke();
    }
    context.globalAlpha = 1;
    const bar = width / MOST;
    samples.forEach(({ times, total }, index) => {
      const x = width - (samples.length - index) * bar;
      let y = height;
      const fill = (value, color) => {
        const part = (value / top) * (height - 14);
        context.fillStyle = color;
        context.fillRect(x + 0.5, y - part, Math.max(1, bar - 1.5), part);
        y -= part;
      };
      for (const step of STEPS) fill(times[`${step}_ms`] ?? 0, style.getPropertyValue(`--step-${step}`));
      fill(rest(times, total), style.getPropertyValue("--step-rest"));
    });
    context.fillStyle = style.color;
    context.fillText(milliseconds(top), 2, 11);
  }
}

function rest(times, total) {
  return Math.max(0, STEPS.reduce((left, step) => left - (times[`${step}_ms`] ?? 0), total));
}

function milliseconds(value) {
  return value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

// The next of 1, 2, 5 times a power of ten.
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
