import { h } from "../dom";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 80;

export interface Line {
  name: string;
  /** A class of the style sheet, which gives the colour. */
  tone: "first" | "second";
}

export interface Point {
  x: number;
  values: (number | null)[];
}

interface Options {
  title: string;
  lines: Line[];
  /** What the ends of the x axis are called. */
  ends: [string, string];
  format(value: number): string;
  /** Whether a line goes on over values that are missing. */
  joined?: boolean;
  /** What x is called when it is pointed at. */
  at(x: number): string;
}

/** Lines over time or steps, with the newest values above them, or those that are pointed at. */
export class Chart {
  readonly root: HTMLElement;
  private readonly drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  private readonly values: HTMLElement[];
  private readonly where = h("span", { class: "where" });
  private readonly top = h("span", { class: "top-value", "aria-hidden": true });
  private readonly cross = svg("line", { class: "cross", y1: 0, y2: HEIGHT, visibility: "hidden" });
  private points: Point[] = [];
  private from = 0;
  private to = 1;
  /** Where the pointer is, as a share of the width. */
  private pointed: number | null = null;

  constructor(private readonly options: Options) {
    this.values = options.lines.map(() => h("b"));
    const legend = options.lines.map((line, at) =>
      h("span", { class: `value ${line.tone}` }, options.lines.length > 1 ? h("span", {}, line.name) : null, this.values[at] ?? ""),
    );
    const plot = h("div", { class: "plot" }, this.drawing, this.top);
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      this.pointed = (event.clientX - box.left) / box.width;
      this.read();
    });
    plot.addEventListener("pointerleave", () => {
      this.pointed = null;
      this.read();
    });
    this.root = h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("span", { class: "chart-title" }, options.title), h("span", { class: "spring" }), ...legend),
      plot,
      h("div", { class: "ends", "aria-hidden": true }, h("span", {}, options.ends[0]), this.where, h("span", {}, options.ends[1])),
    );
  }

  /** `points` from left to right; `from` and `to`: x at the edges. */
  show(points: Point[], from: number, to: number): void {
    Object.assign(this, { points, from, to });
    const known = points.flatMap((point) => point.values).filter((value) => value !== null);
    const most = roundUp(Math.max(0, ...known));
    this.top.textContent = known.length ? this.options.format(most) : "";
    const grid = [0, 0.5].map((share) => svg("line", { class: "grid-line", x1: 0, x2: WIDTH, y1: share * HEIGHT, y2: share * HEIGHT }));
    const lines = this.options.lines.flatMap((line, at) => {
      const path = this.path(at, most);
      const area = this.options.lines.length === 1 && path ? svg("path", { class: `area ${line.tone}`, d: this.area(path) }) : null;
      return [...(area ? [area] : []), svg("path", { class: `line ${line.tone}`, d: path })];
    });
    this.drawing.replaceChildren(...grid, ...lines, this.cross);
    this.read();
    const newest = this.options.lines.map((line, at) => `${line.name} ${this.newest(at)}`).join(", ");
    const highest = known.length ? `; highest ${this.options.format(Math.max(...known))}` : "";
    this.drawing.setAttribute("aria-label", `${this.options.title}: ${newest}${highest}`);
  }

  private path(at: number, most: number): string {
    let path = "";
    let isOpen = false;
    for (const point of this.points) {
      const value = point.values[at] ?? null;
      // A value between two that are missing is a dot: a line of no length, with round ends.
      if (value !== null) path += `${isOpen ? "L" : "M"}${this.x(point.x).toFixed(1)} ${((1 - value / most) * HEIGHT).toFixed(1)}${isOpen ? "" : "h0"}`;
      isOpen = value !== null || (isOpen && this.options.joined === true);
    }
    return path;
  }

  private area(path: string): string {
    const [first, last] = [this.points[0], this.points.at(-1)];
    return first && last ? `${path}L${this.x(last.x).toFixed(1)} ${HEIGHT}L${this.x(first.x).toFixed(1)} ${HEIGHT}Z` : "";
  }

  private x(value: number): number {
    return ((value - this.from) / (this.to - this.from)) * WIDTH;
  }

  private newest(at: number): string {
    const values = this.points.map((point) => point.values[at] ?? null);
    const value = (this.options.joined ? values.findLast((one) => one !== null) : values.at(-1)) ?? null;
    return value === null ? "–" : this.options.format(value);
  }

  private read(): void {
    const wanted = this.pointed === null ? null : this.pointed * WIDTH;
    const near = wanted === null ? undefined : this.points.reduce<Point | undefined>((best, point) => (best && Math.abs(this.x(best.x) - wanted) <= Math.abs(this.x(point.x) - wanted) ? best : point), undefined);
    this.cross.setAttribute("visibility", near ? "visible" : "hidden");
    if (near) for (const end of ["x1", "x2"]) this.cross.setAttribute(end, String(this.x(near.x)));
    this.where.textContent = near ? this.options.at(near.x) : "";
    for (const [at, element] of this.values.entries()) {
      const value = near ? (near.values[at] ?? null) : null;
      element.textContent = near ? (value === null ? "–" : this.options.format(value)) : this.newest(at);
    }
  }
}

/** The next number that is easily read. */
function roundUp(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value) ?? 10) * power;
}

function svg(tag: string, attributes: Record<string, string | number>): SVGElement {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}
