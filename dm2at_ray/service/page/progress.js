import { fill, h } from "./dom.js";
import { counted, number } from "./words.js";

/** How far a round is, and what of it is one's own. */
export class RoundProgress {
  constructor() {
    this.text = h("p", {});
    this.mine = h("span", { class: "mine" });
    this.rest = h("span", { class: "rest" });
    this.needed = h("span", { class: "needed" });
    this.bar = h(
      "div",
      { class: "bar", role: "progressbar", "aria-label": "Answers of the round", "aria-valuemin": "0" },
      this.mine,
      this.rest,
      this.needed,
    );
    this.element = h("div", { class: "progress", hidden: true }, this.text, this.bar);
  }

  /**
   * @param {import("./types.js").Round | null} round
   * @param {number | null} mine
   * @param {number} unsent answers of this page that are on their way
   */
  show(round, mine, unsent) {
    this.element.hidden = round === null;
    if (round === null) return;
    const { asked, answered, needed } = round;
    /** @type {[string, string | false][]} */
    const facts = [
      ["round", `Round ${round.round}`],
      ["answered", `${number(answered)} of ${number(asked)} answered`],
      ["own", mine !== null && `${number(mine)} by you`],
      ["enough", needed < asked && `${number(needed)} needed`],
      ["handed", round.leased > 0 && `${number(round.leased)} handed out`],
      ["waiting", unsent > 0 && `${counted(unsent, "answer")} not sent yet`],
    ];
    fill(
      this.text,
      facts.map(([name, fact]) => fact && h("span", { class: name }, fact)),
    );
    const share = (/** @type {number} */ count) => `${(100 * count) / Math.max(1, asked)}%`;
    const own = Math.min(mine ?? 0, answered);
    this.mine.style.width = share(own);
    this.rest.style.width = share(answered - own);
    this.needed.style.left = share(needed);
    this.needed.hidden = needed >= asked;
    this.bar.setAttribute("aria-valuemax", String(asked));
    this.bar.setAttribute("aria-valuenow", String(answered));
    this.bar.setAttribute(
      "aria-valuetext",
      `${answered} of ${asked} answered${mine === null ? "" : `, ${mine} by you`}`,
    );
  }
}
