import { fill, h } from "./dom.js";
import { showSmall } from "./pictures.js";
import { number } from "./words.js";

const SHOWN = 6;

/** The labeled pictures nearest to the one to label, with the labels they have. */
export class Neighbors {
  /** @type {number | null} */
  #of = null;

  /**
   * @param {import("./pictures.js").Pictures} pictures
   * @param {import("./settings.js").Settings} settings
   * @param {AbortSignal} signal
   */
  constructor(pictures, settings, signal) {
    this.pictures = pictures;
    this.settings = settings;
    // It may scroll, which is for keys too.
    this.list = h("ul", { tabindex: "0", "aria-labelledby": "neighbors-title" });
    this.element = h(
      "section",
      { class: "neighbors", "aria-labelledby": "neighbors-title" },
      h("h2", { id: "neighbors-title" }, "Nearest labeled"),
      this.list,
    );
    settings.addEventListener("change", () => (this.element.hidden = !this.isWanted), { signal });
  }

  get isWanted() {
    return this.settings.get("neighbors") && this.list.children.length > 0;
  }

  /** @param {import("./types.js").Query | null} query */
  show(query) {
    if (this.#of === (query?.sample_id ?? null)) return;
    this.#of = query?.sample_id ?? null;
    const near = query?.neighbors.slice(0, SHOWN) ?? [];
    fill(
      this.list,
      near.map(({ sample_id, label, distance }) => {
        const img = h("img", { alt: "", class: "small" });
        if (this.settings.get("neighbors")) showSmall(this.pictures, img, sample_id);
        return h(
          "li",
          { data: { neighbor: String(sample_id) } },
          img,
          h("span", { class: "name" }, label),
          h(
            "small",
            { title: "distance in the model's features" },
            h("span", { class: "unseen" }, "distance "),
            number(distance),
          ),
        );
      }),
    );
    this.element.hidden = !this.isWanted;
  }
}
