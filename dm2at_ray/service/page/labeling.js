import { Choices } from "./choices.js";
import { Deck } from "./deck.js";
import { fill, h, listen } from "./dom.js";
import { isForPage } from "./keys.js";
import { Neighbors } from "./neighbors.js";
import { announce, warn } from "./notices.js";
import { Picture } from "./picture.js";
import { Pictures } from "./pictures.js";
import { RoundProgress } from "./progress.js";
import { doing, runHead } from "./runhead.js";
import { followStatus } from "./stream.js";
import { Strip } from "./strip.js";
import { CANNOT_TELL, said } from "./words.js";

/** @typedef {import("./types.js").App} App */

/**
 * The page to label on.
 *
 * @param {App} app
 * @param {AbortSignal} signal
 * @param {string} run
 * @returns {Promise<HTMLElement>}
 */
export async function labelingView(app, signal, run) {
  /** @type {import("./types.js").RunStatus} */
  const status = await app.api.get(`runs/${encodeURIComponent(run)}`, { signal });
  return new Labeling(app, signal, run, status).element;
}

class Labeling {
  /**
   * @param {App} app
   * @param {AbortSignal} signal
   * @param {string} run
   * @param {import("./types.js").RunStatus} status
   */
  constructor(app, signal, run, status) {
    this.app = app;
    this.run = run;
    this.status = status;
    this.deck = new Deck(app, run, signal);
    this.pictures = new Pictures(app.api, run, signal);
    this.picture = new Picture(this.pictures, app.settings, signal, () => this.#show());
    this.neighbors = new Neighbors(this.pictures, app.settings, signal);
    this.strip = new Strip(this.deck, this.pictures, (id) => app.outbox.has(run, id));
    this.progress = new RoundProgress();
    this.head = runHead(app, run, "label");
    this.choices = this.#choices(status.classes);
    this.answers = h("div", { class: "answers" }, this.choices.element);
    this.last = h("p", { class: "last", id: "last" });
    this.undo = button("Undo", "Backspace", "⌫", () => this.#undo());
    this.cannot = button("Cannot tell", "Space", "Space", () => this.#answer(null));
    this.empty = h("div", { class: "empty", hidden: true });
    this.bench = h(
      "div",
      { class: "bench" },
      this.picture.element,
      this.neighbors.element,
      h(
        "section",
        { class: "answer", "aria-label": "Your answer" },
        this.answers,
        h("div", { class: "actions" }, this.cannot, this.undo),
        this.last,
      ),
    );
    this.element = h(
      "div",
      { class: "labeling" },
      this.head.element,
      this.progress.element,
      this.empty,
      this.bench,
      this.strip.element,
      keyHelp(),
    );
    this.#listen(signal);
    this.#showStatus(status);
    this.deck.fill();
  }

  /** @param {AbortSignal} signal */
  #listen(signal) {
    const { deck } = this;
    const { outbox } = this.app;
    listen(deck, "change", () => this.#show(), signal);
    listen(
      deck,
      "lost",
      () => warn("The picture before you was given to somebody else, as it was not answered in time."),
      signal,
    );
    let rounds = 0;
    listen(
      deck,
      "round",
      () => rounds++ > 0 && announce(`Round ${deck.round?.round} awaits labels.`),
      signal,
    );
    listen(outbox, "change", () => this.#show(), signal);
    listen(outbox, "taken", ({ detail }) => this.#taken(detail), signal);
    listen(
      outbox,
      "refused",
      ({ detail }) => detail.entry.run === this.run && deck.reopen(detail.entry.sample_id),
      signal,
    );
    listen(document, "keydown", (event) => this.#key(event), signal);
    for (const event of ["keydown", "pointerdown"]) listen(document, event, () => deck.touch(), signal);
    // A mouse leaves the focus where it is, so that the space bar afterwards still says "cannot tell".
    listen(
      this.element,
      "mousedown",
      (event) => event.target.closest("button") && event.preventDefault(),
      signal,
    );
    followStatus(
      this.app.api,
      this.run,
      (status) => this.#showStatus(status),
      () => {},
      signal,
    ).catch((error) => warn(error.message));
  }

  /** @param {import("./types.js").RunStatus} status */
  #showStatus(status) {
    const before = this.status;
    this.status = status;
    this.head.show(status.state);
    if (String(before.classes) !== String(status.classes)) {
      this.choices = this.#choices(status.classes);
      fill(this.answers, this.choices.element);
    }
    const awaits = status.awaiting;
    if (awaits && awaits.round === this.deck.round?.round) {
      // The stream may be behind the answer to what this page has just sent.
      if (awaits.answered >= this.deck.round.answered) this.deck.round = awaits;
    }
    // Somebody has given pictures back, or answered the last one.
    const isFree =
      awaits !== null && (awaits.answered === awaits.asked || awaits.answered + awaits.leased < awaits.asked);
    const isWaiting = this.deck.state === "held" && isFree;
    if (isWaiting || awaits?.round !== before.awaiting?.round || status.state !== before.state)
      this.deck.fill();
    this.#show();
  }

  #show() {
    const { deck } = this;
    const card = deck.current;
    const { trouble, waiting } = this.app.outbox;
    // What is on its way for a moment is no news.
    const unsent = trouble === null ? 0 : waiting.filter((entry) => entry.run === this.run).length;
    this.picture.show(card);
    this.neighbors.show(card?.query ?? null);
    this.strip.show();
    this.progress.show(deck.round, deck.round && deck.mine, unsent);
    this.choices.disable(!this.picture.isShown);
    this.choices.press(card?.answered ? card.label : undefined);
    this.cannot.setAttribute("aria-pressed", String(Boolean(card?.answered) && card?.label === null));
    this.bench.hidden = card === null;
    this.empty.hidden = card !== null;
    if (card === null) this.#explain();
    const ahead = deck.open.filter((each) => each !== card);
    if (this.picture.isShown) {
      const near = this.app.settings.get("neighbors")
        ? ahead.slice(0, 1).flatMap((each) => each.query.neighbors)
        : [];
      this.pictures.prefetch([
        ...ahead.map((each) => each.query.sample_id),
        ...near.slice(0, 6).map((each) => each.sample_id),
      ]);
    }
  }

  /** Why there is no picture. */
  #explain() {
    const [title, text] = this.#reason();
    const words = `${title} ${text}`;
    if (this.empty.dataset.words === words) return;
    this.empty.dataset.words = words;
    this.empty.dataset.state = this.deck.state;
    fill(this.empty, h("h2", {}, title), h("p", {}, text));
    if (this.deck.state !== "loading") announce(words);
  }

  /** @returns {[string, string]} */
  #reason() {
    const { deck, status } = this;
    const next = status.advance
      ? "The run goes on by itself, and this page with it."
      : "An operator lets the run go on; this page follows it.";
    if (deck.state !== "loading" && status.state === "stopped")
      return ["The run is stopped.", "It asks for no labels."];
    switch (deck.state) {
      case "answered":
        return [`Round ${deck.round?.round} is answered.`, `Thank you. ${next}`];
      case "held":
        return [
          "Others have the last pictures before them.",
          "What they leave is shown here; this page looks again by itself.",
        ];
      case "idle":
        return ["No round awaits labels now.", `${doing(status)}. ${status.reason}`.trim()];
      case "unreachable":
        return [
          "The service does not answer.",
          "Your answers are kept in this browser and sent as soon as it does.",
        ];
      case "refused":
        return ["The service gives out no pictures.", deck.trouble];
      default:
        return ["Getting pictures …", ""];
    }
  }

  /** @param {string | null} label */
  #answer(label) {
    const card = this.deck.current;
    if (!card || !this.picture.isShown) return;
    const isCorrection = card.answered;
    const words = !isCorrection
      ? `Said: ${said(label)}.`
      : card.label === label
        ? `Still ${said(label)}.`
        : `Corrected: ${said(label)}, was ${said(card.label)}.`;
    if (document.activeElement === this.choices.filter) this.picture.element.focus({ preventScroll: true });
    this.choices.clear();
    this.deck.answer(label);
    const next = this.deck.current;
    this.last.textContent = words;
    announce(`${words} ${next ? `Next: rank ${next.query.rank + 1}.` : ""}`);
  }

  #undo() {
    this.choices.clear();
    const card = this.deck.undo();
    const words = card
      ? `Back at rank ${card.query.rank + 1}: you said ${said(card.label)}. A new answer corrects it.`
      : "There is no earlier picture to go back to.";
    this.last.textContent = words;
    announce(words);
  }

  /** @param {{entry: import("./outbox.js").Entry, answered: import("./types.js").Answered, report: import("./types.js").AnswersReport}} detail */
  #taken({ entry, answered, report }) {
    if (entry.run !== this.run) return;
    if (answered.outcome === "correction" && !entry.corrects) {
      const before = answered.detail ? ` (${answered.detail})` : "";
      warn(
        `Sample ${entry.sample_id} had been answered by somebody meanwhile${before}. Your “${said(entry.label)}” counts now.`,
      );
    }
    if (report.round?.round === this.deck.round?.round) {
      this.deck.round = report.round;
      this.deck.mine = report.mine;
    }
    if (this.deck.open.length === 0 && this.app.outbox.waiting.length === 0) this.deck.fill();
    this.#show();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.app.settings.get("shortcuts") || !isForPage(event)) return;
    // With no picture there is nothing to say, but something to take back.
    if (this.deck.current === null && !["Backspace", "ArrowLeft"].includes(event.key)) return;
    if (this.#act(event)) event.preventDefault();
  }

  /**
   * @param {KeyboardEvent} event
   * @returns {boolean} whether the key meant something
   */
  #act(event) {
    const { key, repeat } = event;
    if (key === "ArrowLeft") return this.deck.move(-1) || true;
    if (key === "ArrowRight") return this.deck.move(1) || true;
    if (key === "ArrowUp" || key === "ArrowDown") return this.choices.mark(key === "ArrowUp" ? -1 : 1);
    if (key === "Escape") return (this.choices.clear(), true);
    // A key held down must not answer picture after picture.
    if (repeat) return key === " " || key === "Backspace";
    if (key === "/" && this.choices.filter.isConnected) return (this.choices.filter.focus(), true);
    if (key === " " || key === "?") return (this.#answer(null), true);
    if (key === "Backspace") return this.choices.back() || (this.#undo(), true);
    if (key === "Enter") return this.choices.enter();
    if (key === "T" && event.shiftKey) return (this.picture.toggleTwin(), true);
    if (key === "P" && event.shiftKey) return (this.picture.togglePrediction(), true);
    if (key === "N" && event.shiftKey) {
      this.app.settings.set("neighbors", !this.app.settings.get("neighbors"));
      return true;
    }
    return key.length === 1 && this.choices.type(key);
  }

  /** @param {string[]} classes */
  #choices(classes) {
    return new Choices(classes, (label) => this.#answer(label));
  }
}

/**
 * @param {string} text
 * @param {string} shortcut as ARIA names it
 * @param {string} key as it is shown
 * @param {() => void} act
 */
function button(text, shortcut, key, act) {
  return h(
    "button",
    { type: "button", "aria-keyshortcuts": shortcut, on: { click: act } },
    h("kbd", { "aria-hidden": "true" }, key),
    text,
  );
}

function keyHelp() {
  /** @type {[string, string][]} */
  const keys = [
    ["1 – 9, 0", "the class with this number"],
    ["letters", "the class that begins so; more letters, or arrows up and down and Enter, where several do"],
    ["Space or ?", `${CANNOT_TELL} (Space also presses a button that has the focus)`],
    ["← →", "the picture before, the next one"],
    ["Backspace", "take back a letter; else go back to the last answered picture, to correct it"],
    ["Shift + P", "show or hide the prediction"],
    ["Shift + T", "the adversarial twin, and back"],
    ["Shift + N", "show or hide the nearest labeled pictures"],
    ["/", "filter the classes, where they are many"],
    ["Esc", "forget the letters typed"],
  ];
  return h(
    "details",
    { class: "keys" },
    h("summary", {}, "Keys"),
    h(
      "dl",
      {},
      keys.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]),
    ),
  );
}
