import { fill, h } from "./dom.js";
import { announce } from "./notices.js";
import { number, said } from "./words.js";

/** A picture is enlarged by whole pixels from this factor on; below, it is fitted. */
const LEAST_SCALE = 2;

/** The picture to label: large, with what is known of it, its twin and the prediction when asked for. */
export class Picture {
  #turn = 0;
  /** @type {import("./deck.js").Card | null} */
  #card = null;
  #twin = false;
  #isRevealed = false;

  /** Whether the picture can be seen: nobody labels what is not there. */
  isShown = false;

  /**
   * @param {import("./pictures.js").Pictures} pictures
   * @param {import("./settings.js").Settings} settings
   * @param {AbortSignal} signal
   * @param {() => void} changed
   */
  constructor(pictures, settings, signal, changed) {
    this.pictures = pictures;
    this.settings = settings;
    this.changed = changed;
    this.img = h("img", { alt: "", hidden: true, draggable: "false" });
    this.message = h("div", { class: "message" });
    this.room = h("div", { class: "room" }, this.img, this.message);
    this.banner = h("p", { class: "banner", hidden: true });
    this.frame = h("div", { class: "frame" }, this.banner, this.room);
    this.facts = h("p", { class: "facts" });
    this.prediction = h("button", { type: "button", on: { click: () => this.togglePrediction() } });
    this.twin = h(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        "aria-keyshortcuts": "Shift+T",
        on: { click: () => this.toggleTwin() },
      },
      "Adversarial twin",
    );
    this.element = h(
      "figure",
      { class: "picture", tabindex: "-1", "aria-label": "Picture to label" },
      this.frame,
      h("figcaption", {}, this.facts, h("div", { class: "asks" }, this.prediction, this.twin)),
    );
    const watch = new ResizeObserver(() => this.#fit());
    watch.observe(this.room);
    signal.addEventListener("abort", () => watch.disconnect());
    settings.addEventListener("change", () => (this.#describe(), this.#fit()), { signal });
  }

  /** @param {import("./deck.js").Card | null} card */
  show(card) {
    if (card !== this.#card) {
      this.#card = card;
      this.#twin = false;
      this.#isRevealed = false;
      this.#load();
    }
    this.#describe();
  }

  togglePrediction() {
    const query = this.#card?.query;
    if (!query?.predicted || this.settings.get("prediction")) return;
    this.#isRevealed = !this.#isRevealed;
    this.#describe();
    announce(this.#isRevealed ? `The model says ${query.predicted}` : "Prediction hidden");
  }

  toggleTwin() {
    if (!this.#card?.query.twin) return;
    this.#twin = !this.#twin;
    announce(this.#twin ? "Adversarial twin" : "The picture itself");
    this.#load();
    this.#describe();
  }

  async #load() {
    const turn = ++this.#turn;
    const card = this.#card;
    this.isShown = false;
    delete this.element.dataset.sampleId;
    this.element.setAttribute("aria-busy", String(card !== null));
    if (card) {
      try {
        const url = await this.pictures.url(card.query.sample_id, this.#twin ? "twin" : "picture", "high");
        const ready = new Image();
        ready.src = url;
        await ready.decode();
        if (turn !== this.#turn) return;
        this.img.src = url;
        this.img.hidden = false;
        this.img.alt = this.#twin ? "Adversarial twin of the picture to label" : "The picture to label";
        fill(this.message);
        this.isShown = true;
        this.element.dataset.sampleId = String(card.query.sample_id);
        this.element.dataset.rank = String(card.query.rank);
        this.#fit();
      } catch (error) {
        if (turn !== this.#turn || this.pictures.signal.aborted) return;
        this.img.hidden = true;
        fill(
          this.message,
          h("p", {}, `This picture cannot be shown. ${/** @type {Error} */ (error).message}`),
          h("button", { type: "button", on: { click: () => this.#load() } }, "Try again"),
        );
      }
    } else {
      this.img.hidden = true;
      fill(this.message);
    }
    this.element.setAttribute("aria-busy", "false");
    this.changed();
  }

  #describe() {
    const query = this.#card?.query;
    this.element.hidden = !query;
    if (!query || !this.#card) return;
    const always = this.settings.get("prediction");
    const isSeen = always || this.#isRevealed;
    fill(
      this.facts,
      h("span", {}, `Rank ${number(query.rank + 1)}`),
      query.score !== null && h("span", {}, `score ${number(query.score)}`),
      h("span", { class: "id" }, `sample ${query.sample_id}`),
      query.predicted !== null &&
        isSeen &&
        h("span", { class: "predicted" }, "predicted ", h("strong", {}, query.predicted)),
    );
    this.prediction.hidden = query.predicted === null || always;
    this.prediction.textContent = isSeen ? "Hide prediction" : "Show prediction";
    this.prediction.setAttribute("aria-keyshortcuts", "Shift+P");
    this.twin.hidden = !query.twin;
    this.twin.setAttribute("aria-pressed", String(this.#twin));
    this.element.classList.toggle("is-twin", this.#twin);
    this.banner.hidden = !this.#card.answered;
    if (this.#card.answered)
      fill(this.banner, "You said ", h("strong", {}, said(this.#card.label)), ". A new answer corrects it.");
  }

  /** Whole device pixels for each pixel of a small picture, so that every one of them is equally large. */
  #fit() {
    const { naturalWidth: width, naturalHeight: height } = this.img;
    if (!width || this.img.hidden) return;
    const room = Math.min(this.room.clientWidth / width, this.room.clientHeight / height);
    const whole = Math.floor(room * devicePixelRatio) / devicePixelRatio;
    const isSmall = whole >= LEAST_SCALE;
    const scale = isSmall ? whole : Math.min(room, LEAST_SCALE);
    this.img.classList.toggle("pixels", isSmall && this.settings.get("pixels"));
    this.img.style.width = `${width * scale}px`;
    this.img.style.height = `${height * scale}px`;
  }
}
