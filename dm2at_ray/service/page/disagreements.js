import { fill, h } from "./dom.js";
import { announce, warn } from "./notices.js";
import { Pictures, showSmall } from "./pictures.js";
import { runHead } from "./runhead.js";
import { sleep, visible } from "./wait.js";
import { CANNOT_TELL, moment, said } from "./words.js";

/** @typedef {import("./types.js").Disagreement} Disagreement */

const LIMIT = 20;
const EVERY_MS = 5_000;

/**
 * Pictures of which people have said different things, for an operator to settle.
 *
 * @param {import("./types.js").App} app
 * @param {AbortSignal} signal
 * @param {string} run
 * @returns {Promise<HTMLElement>}
 */
export async function disagreementsView(app, signal, run) {
  const path = `runs/${encodeURIComponent(run)}`;
  const head = runHead(app, run, "disagreements");
  const pictures = new Pictures(app.api, run, signal);
  /** @type {import("./types.js").RunStatus} */
  const { classes, state } = await app.api.get(path, { signal });
  head.show(state);
  const list = h("ol", { class: "disagreements" });
  const more = h(
    "button",
    { type: "button", on: { click: () => load().catch((error) => warn(error.message)) } },
    "More",
  );
  /** @type {number | null} */
  let next = null;

  async function load() {
    const after = next === null ? "" : `&after=${next}`;
    /** @type {import("./types.js").DisagreementPage} */
    const found = await app.api.get(`${path}/labels/disagreements?limit=${LIMIT}${after}`, { signal });
    list.append(...found.disagreements.map(item));
    next = found.next;
    more.hidden = next === null;
  }

  /** @param {Disagreement} disagreement */
  function item({ sample_id, round, said: words }) {
    const img = h("img", { class: "small", alt: "" });
    showSmall(pictures, img, sample_id);
    const history = h("ul", { class: "said" });
    const verdict = h("p", { role: "status", class: "verdict" });
    const other = h(
      "select",
      { "aria-label": `Another class for sample ${sample_id}` },
      h("option", { value: "" }, "another class …"),
      classes.map((name) => h("option", { value: `=${name}` }, name)),
      h("option", { value: "?" }, CANNOT_TELL),
    );
    const settle = h("button", { type: "button", disabled: true }, "Settle");
    other.addEventListener("change", () => (settle.disabled = !other.value));
    settle.addEventListener("click", () => decide(other.value === "?" ? null : other.value.slice(1)));
    const named = [...new Set(words.map((word) => word.label))];
    const choices = h(
      "div",
      { class: "buttons", role: "group", "aria-label": `What sample ${sample_id} is` },
      named.map((label) => h("button", { type: "button", on: { click: () => decide(label) } }, said(label))),
      other,
      settle,
    );

    /** @param {string | null} label */
    async function decide(label) {
      try {
        /** @type {import("./types.js").AnswersReport} */
        const report = await app.api.post(
          `${path}/labels`,
          { answers: [{ sample_id, round, label }] },
          { signal },
        );
        const same = report.outcomes[0].outcome === "same";
        verdict.textContent = same
          ? `${said(label)} it stays: that counted already.`
          : `Settled: ${said(label)}.`;
        announce(verdict.textContent);
        element.classList.add("settled");
        /** @type {{said: import("./types.js").Said[]}} */
        const page = await app.api.get(`${path}/labels/said?sample_id=${sample_id}&limit=100`, { signal });
        show(page.said);
      } catch (error) {
        if (!signal.aborted) warn(/** @type {Error} */ (error).message);
      }
    }

    /** @param {import("./types.js").Said[]} all */
    function show(all) {
      fill(
        history,
        all.map((word) =>
          h(
            "li",
            { class: word.counts ? "counts" : null },
            h("strong", {}, said(word.label)),
            ` by ${word.source}, `,
            h("time", { datetime: word.time }, moment(word.time)),
            word.counts && h("span", { class: "tag" }, "counts"),
          ),
        ),
      );
    }

    show(words);
    const element = h(
      "li",
      { data: { sampleId: String(sample_id) } },
      img,
      h(
        "div",
        {},
        h("h2", {}, `Sample ${sample_id}`, h("small", {}, ` round ${round}`)),
        history,
        choices,
        verdict,
      ),
    );
    return element;
  }

  const none = h("p", { class: "empty" }, "Nobody disagrees.");
  await load();
  untilSome().catch(() => {});
  return h(
    "div",
    { class: "page" },
    head.element,
    h(
      "p",
      { class: "quiet" },
      "Of these pictures, people have said different things. The last word counts; yours settles it.",
    ),
    none,
    list,
    more,
  );

  /** Look again while there is nothing to do; what is being read stays as it is. */
  async function untilSome() {
    for (;;) {
      none.hidden = list.children.length > 0;
      if (none.hidden) return;
      await sleep(EVERY_MS, signal);
      await visible(signal);
      await load().catch(() => {});
    }
  }
}
