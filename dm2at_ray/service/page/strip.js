import { fill, h } from "./dom.js";
import { showSmall } from "./pictures.js";
import { said } from "./words.js";

const BEHIND = 6;

/** The pictures at hand in a row: the last answered ones, the one looked at, and those to come. */
export class Strip {
  /** @type {Map<number, HTMLButtonElement>} */
  #thumbs = new Map();

  /**
   * @param {import("./deck.js").Deck} deck
   * @param {import("./pictures.js").Pictures} pictures
   * @param {(sampleId: number) => boolean} isUnsent
   */
  constructor(deck, pictures, isUnsent) {
    this.deck = deck;
    this.pictures = pictures;
    this.isUnsent = isUnsent;
    this.row = h("ol", {});
    const step = (/** @type {1 | -1} */ by, /** @type {string} */ name, /** @type {string} */ sign) =>
      h(
        "button",
        { type: "button", class: "step", "aria-label": name, on: { click: () => deck.move(by) } },
        sign,
      );
    this.element = h(
      "nav",
      { class: "strip", "aria-label": "Pictures at hand" },
      step(-1, "Picture before", "‹"),
      this.row,
      step(1, "Next picture", "›"),
    );
  }

  show() {
    const { cards, current } = this.deck;
    const behind = cards.filter((card) => card.answered);
    const shown = cards.slice(Math.max(0, behind.length - BEHIND, 0));
    // Who has gone further back still sees where they are.
    const first =
      current && !shown.includes(current) ? cards.slice(cards.indexOf(current), behind.length - BEHIND) : [];
    const all = [...first, ...shown];
    const ids = new Set(all.map((card) => card.query.sample_id));
    for (const id of this.#thumbs.keys()) if (!ids.has(id)) this.#thumbs.delete(id);
    const items = all.map((card) => h("li", {}, this.#thumb(card, card === current)));
    const focused = this.row.contains(document.activeElement) ? document.activeElement : null;
    fill(this.row, items);
    if (focused instanceof HTMLElement && focused.isConnected) focused.focus();
    this.element.hidden = all.length === 0;
    const place = all.indexOf(/** @type {any} */ (current));
    const item = items[place];
    if (item) this.row.scrollLeft = item.offsetLeft - (this.row.clientWidth - item.clientWidth) / 2;
  }

  /** @param {import("./deck.js").Card} card @param {boolean} isCurrent */
  #thumb(card, isCurrent) {
    const id = card.query.sample_id;
    const thumb = this.#thumbs.get(id) ?? this.#make(card);
    const isUnsent = card.answered && this.isUnsent(id);
    const words = card.answered ? `${said(card.label)}${isUnsent ? ", not sent yet" : ""}` : "open";
    thumb.setAttribute("aria-label", `Rank ${card.query.rank + 1}: ${words}`);
    if (isCurrent) thumb.setAttribute("aria-current", "true");
    else thumb.removeAttribute("aria-current");
    thumb.classList.toggle("answered", card.answered);
    thumb.classList.toggle("unsent", isUnsent);
    const caption = /** @type {HTMLElement} */ (thumb.lastElementChild);
    caption.textContent = card.answered ? said(card.label) : "";
    return thumb;
  }

  /** @param {import("./deck.js").Card} card */
  #make(card) {
    const id = card.query.sample_id;
    const img = h("img", { alt: "", class: "small" });
    showSmall(this.pictures, img, id);
    const thumb = h(
      "button",
      { type: "button", class: "thumb", data: { sample: String(id) } },
      img,
      h("span", {}),
    );
    thumb.addEventListener("click", () => {
      const now = this.deck.cards.find((each) => each.query.sample_id === id);
      if (now) this.deck.go(now);
    });
    this.#thumbs.set(id, thumb);
    return thumb;
  }
}
