import { h } from "./dom.js";
import { counted, number } from "./words.js";

/**
 * What was asked and said so far, by round, by person and by class.
 *
 * @param {import("./types.js").App} app
 * @param {string} run
 * @param {AbortSignal} signal
 * @returns {Promise<HTMLElement>}
 */
export async function labelsSoFar(app, run, signal) {
  /** @type {import("./types.js").LabelsStatus} */
  const { rounds, corrections, sources, classes } = await app.api.get(
    `runs/${encodeURIComponent(run)}/labels`,
    { signal },
  );
  if (rounds.length === 0) return h("p", { class: "quiet" }, "No round has asked for labels yet.");
  return h(
    "div",
    { class: "tables" },
    table(
      "Rounds",
      ["round", "asked", "answered", "cannot tell", ""],
      rounds.map((each) => [
        each.round,
        each.asked,
        each.answered,
        each.skipped,
        each.accepted ? "accepted" : each.open ? "open" : "",
      ]),
    ),
    table("People", ["who", "answers that count"], byCount(sources)),
    table("Classes", ["class", "pictures"], byCount(classes)),
    corrections > 0 &&
      h("p", { class: "quiet" }, counted(corrections, "answer was corrected", "answers were corrected")),
  );
}

/** @param {Record<string, number>} counts */
function byCount(counts) {
  return Object.entries(counts).sort(([, one], [, other]) => other - one);
}

/** @param {string} name @param {string[]} heads @param {(string | number)[][]} rows */
function table(name, heads, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": name },
    h(
      "table",
      {},
      h("caption", {}, name),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td", {}))),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(([first, ...rest]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, first),
            rest.map((cell) => h("td", {}, typeof cell === "number" ? number(cell) : cell)),
          ),
        ),
      ),
    ),
  );
}
