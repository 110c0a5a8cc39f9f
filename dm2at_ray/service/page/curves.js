import { fill, h, svg } from "./dom.js";
import { counted, number, percent } from "./words.js";

/** @typedef {import("./types.js").RoundMetrics} RoundMetrics */
/** @typedef {{labeled: number, value: number, interval: [number, number] | null, round: number}} Point */
/** @typedef {{attack: string, name: string, points: Point[]}} Curve */

const NAMES = /** @type {Record<string, string>} */ ({
  clean: "clean",
  fgsm: "FGSM",
  pgd: "PGD",
  autoattack: "AutoAttack",
});
const FIRST = ["clean", "fgsm", "pgd"];
const HEIGHT = 300;
const MARGIN = { top: 12, right: 16, bottom: 40, left: 52 };
/** So that noise does not look like a trend. */
const LEAST_RANGE = 0.1;

/**
 * Accuracy clean and under each attack against the number of labels: a chart, and the same as a table.
 *
 * @param {RoundMetrics[]} rounds
 * @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function accuracyCurves(rounds, signal) {
  const curves = curvesOf(rounds);
  if (curves.length === 0) {
    return h("p", { class: "quiet" }, "No round is final yet; the first one's accuracy will be here.");
  }
  const chart = h("div", { class: "chart" });
  const draw = () => fill(chart, drawn(curves, Math.max(280, chart.clientWidth || 640)));
  const watch = new ResizeObserver(draw);
  watch.observe(chart);
  signal.addEventListener("abort", () => watch.disconnect());
  draw();
  return h("div", { class: "curves" }, legend(curves), chart, table(rounds, curves));
}

/** @param {RoundMetrics[]} rounds @returns {Curve[]} those with at least one point */
function curvesOf(rounds) {
  const measured = new Set(rounds.flatMap(({ metrics }) => Object.keys(metrics.accuracy ?? {})));
  const attacks = [...FIRST, ...[...measured].filter((attack) => !FIRST.includes(attack)).sort()];
  return attacks
    .map((attack) => ({
      attack,
      name: NAMES[attack] ?? attack,
      points: rounds.flatMap(({ round, metrics }) => {
        const value = metrics.accuracy?.[attack];
        if (typeof value !== "number" || typeof metrics.labeled !== "number") return [];
        return [
          { round, labeled: metrics.labeled, value, interval: metrics.accuracy_interval?.[attack] ?? null },
        ];
      }),
    }))
    .filter((curve) => curve.points.length > 0);
}

/** @param {Curve[]} curves @param {number} width */
function drawn(curves, width) {
  const points = curves.flatMap((curve) => curve.points);
  const values = points.flatMap((point) => [point.value, ...(point.interval ?? [])]);
  const yTicks = ticks(...widened(Math.min(...values), Math.max(...values)), 6);
  const labeled = points.map((point) => point.labeled);
  const [low, high] = [Math.min(...labeled), Math.max(...labeled)];
  // A single round stands in the middle.
  const [left, right] = low === high ? [low - 1, high + 1] : [low, high];
  const round = ticks(left, right, Math.max(2, Math.floor(width / 110))).filter(
    (at) => at >= left && at <= right,
  );
  const xTicks = low === high ? [low] : round.length > 1 ? round : [low, high];
  const x = scale(left, right, MARGIN.left, width - MARGIN.right);
  const y = scale(yTicks[0], yTicks[yTicks.length - 1], HEIGHT - MARGIN.bottom, MARGIN.top);
  const words = curves.map(({ name, points: [first, ...rest] }) => {
    const last = rest.at(-1) ?? first;
    return `${name} ${percent(first.value)} at ${counted(first.labeled, "label")}${rest.length ? `, ${percent(last.value)} at ${number(last.labeled)}` : ""}`;
  });
  return svg(
    "svg",
    {
      role: "img",
      "aria-label": `Accuracy against the number of labels: ${words.join("; ")}`,
      viewBox: `0 0 ${width} ${HEIGHT}`,
      width,
      height: HEIGHT,
    },
    ...yTicks.flatMap((tick) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      svg(
        "text",
        { x: MARGIN.left - 8, y: y(tick), "text-anchor": "end", dy: "0.32em" },
        `${Math.round(100 * tick)} %`,
      ),
    ]),
    ...xTicks.map((tick) =>
      svg("text", { x: x(tick), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": "middle" }, number(tick)),
    ),
    svg(
      "text",
      { class: "title", x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" },
      "labels",
    ),
    ...curves.map((curve, index) => line(curve, index, x, y)),
  );
}

/** @param {Curve} curve @param {number} index @param {(value: number) => number} x @param {(value: number) => number} y */
function line({ name, points }, index, x, y) {
  const path = points.map(
    (point, place) => `${place ? "L" : "M"}${x(point.labeled).toFixed(1)},${y(point.value).toFixed(1)}`,
  );
  const sure = points.filter((point) => point.interval !== null);
  const edge = (/** @type {0 | 1} */ end) =>
    sure.map(
      (point) =>
        `${x(point.labeled).toFixed(1)},${y(/** @type {[number, number]} */ (point.interval)[end]).toFixed(1)}`,
    );
  return svg(
    "g",
    { class: `series series-${index % 6}` },
    sure.length > 1 &&
      svg("polygon", { class: "shade", points: [...edge(0), ...edge(1).reverse()].join(" ") }),
    svg("path", { class: "line", d: path.join("") }),
    ...points.map((point) => {
      const mark = marker(index, x(point.labeled), y(point.value));
      mark.append(svg("title", {}, `${name}: ${percent(point.value)} at ${counted(point.labeled, "label")}`));
      return mark;
    }),
  );
}

/** @param {number} index @param {number} x @param {number} y */
function marker(index, x, y) {
  const shapes = [
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-4,-4h8v8h-8z",
    "M0,-5L5,4H-5z",
    "M0,-5.5L5.5,0L0,5.5L-5.5,0z",
  ];
  return svg("path", {
    class: "mark",
    d: shapes[index % shapes.length],
    transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
  });
}

/** @param {Curve[]} curves */
function legend(curves) {
  return h(
    "ul",
    { class: "legend" },
    curves.map(({ name, points }, index) =>
      h(
        "li",
        {},
        svg(
          "svg",
          { width: 28, height: 12, "aria-hidden": "true" },
          svg(
            "g",
            { class: `series series-${index % 6}` },
            svg("path", { class: "line", d: "M2,6H26" }),
            marker(index, 14, 6),
          ),
        ),
        name,
        " ",
        h("strong", {}, percent(points[points.length - 1].value)),
      ),
    ),
  );
}

/** @param {RoundMetrics[]} rounds @param {Curve[]} curves */
function table(rounds, curves) {
  const cell = (/** @type {Curve} */ curve, /** @type {number} */ round) => {
    const point = curve.points.find((each) => each.round === round);
    return h("td", {}, point ? percent(point.value) : "–");
  };
  return h(
    "details",
    {},
    h("summary", {}, "As a table"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Accuracy by round" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["round", "labels", ...curves.map((curve) => curve.name)].map((name) =>
              h("th", { scope: "col" }, name),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          rounds.map(({ round, metrics }) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, round),
              h("td", {}, number(metrics.labeled ?? 0)),
              curves.map((curve) => cell(curve, round)),
            ),
          ),
        ),
      ),
    ),
  );
}

/** @param {number} low @param {number} high @returns {[number, number]} */
function widened(low, high) {
  const missing = Math.max(0, LEAST_RANGE - (high - low)) / 2;
  return [Math.max(0, low - missing), Math.min(1, high + missing)];
}

/**
 * Round numbers around a range.
 *
 * @param {number} low
 * @param {number} high
 * @param {number} most
 */
export function ticks(low, high, most) {
  const range = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(range / most));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => range / each <= most) ?? range;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, place) =>
    Number(((first + place) * step).toPrecision(12)),
  );
}

/** @param {number} low @param {number} high @param {number} start @param {number} end @returns {(value: number) => number} */
function scale(low, high, start, end) {
  return (value) => start + ((value - low) / (high - low || 1)) * (end - start);
}
