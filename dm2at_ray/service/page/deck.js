import { Refusal } from "./api.js";
import { backoff } from "./wait.js";

/**
 * A picture in somebody's hands.
 *
 * @typedef {object} Card
 * @property {import("./types.js").Query} query
 * @property {boolean} answered by this tab
 * @property {string | null} label what was said; null for "cannot tell"
 */

/**
 * `loading`; `ready`: there are pictures; `held`: others hold all that are open; `answered`: the round is;
 * `idle`: no round awaits labels; `unreachable`; `refused`.
 *
 * @typedef {"loading" | "ready" | "held" | "answered" | "idle" | "unreachable" | "refused"} DeckState
 */

const HELD = 8;
const LOW = 4;
const REMEMBERED = 30;
/** Who has not touched anything for so long gives what is held to others. */
const AWAY_MS = 180_000;

/** Leases being given back: a later claim must not overtake it, and lose what it was just given. */
let releasing = Promise.resolve();

/**
 * The pictures that this tab holds, those that it has answered, and the one it looks at.
 *
 * Leases are renewed while somebody is there. Events: `change`; `lost`, where the picture looked at was given
 * to somebody else; `round`, where another round has begun.
 */
export class Deck extends EventTarget {
  /** @type {Card[]} oldest first */
  #answered = [];
  /** @type {Card[]} */
  #open = [];
  /** Every sample answered here in this round: a lease that was on its way may still have it. */
  #seen = new Set();
  /** @type {Card | null} */
  #current = null;
  #isFilling = false;
  #isWanting = false;
  #isStale = false;
  /** Whether leases were ever asked for: what is on its way is to be given back, too. */
  #hasAsked = false;
  #touched = Date.now();
  #timer = 0;
  #failures = 0;

  /** @type {DeckState} */
  state = "loading";
  /** Why, where the state is unreachable or refused. */
  trouble = "";
  /** @type {import("./types.js").Round | null} */
  round = null;
  /** How many of the round's answers came from this person. */
  mine = 0;

  /**
   * @param {import("./types.js").App} app
   * @param {string} run
   * @param {AbortSignal} signal ends it and gives the leases back
   */
  constructor(app, run, signal) {
    super();
    this.app = app;
    this.run = run;
    this.signal = signal;
    this.path = `runs/${encodeURIComponent(run)}/leases`;
    signal.addEventListener("abort", () => (clearTimeout(this.#timer), this.#release()));
    addEventListener("pagehide", () => this.#release(), { signal });
    // The page may come back as it was, from the browser's memory.
    addEventListener("pageshow", (event) => event.persisted && this.fill(), { signal });
    document.addEventListener("visibilitychange", () => !document.hidden && this.touch(), { signal });
  }

  get current() {
    return this.#current;
  }

  /** @returns {Card[]} the last answered ones, then those to come */
  get cards() {
    return [...this.#answered, ...this.#open];
  }

  /** @returns {Card[]} */
  get open() {
    return this.#open;
  }

  /** Somebody is there. */
  touch() {
    this.#touched = Date.now();
    if (this.#isStale) this.fill();
  }

  /** @param {1 | -1} step */
  move(step) {
    const cards = this.cards;
    // Where nothing is left to answer, the last answered one is before it.
    const here = this.#current ? cards.indexOf(this.#current) : cards.length;
    const place = here + step;
    if (place < 0 || place >= cards.length) return false;
    this.go(cards[place]);
    return true;
  }

  /** @param {Card} card */
  go(card) {
    this.#current = card;
    this.#changed();
  }

  /** @returns {Card | null} the last answered picture, now looked at again; null where there is none */
  undo() {
    const last = this.#answered.indexOf(/** @type {Card} */ (this.#current));
    const card = this.#answered.at(last < 0 ? -1 : last - 1) ?? null;
    if (!card || last === 0) return null;
    this.go(card);
    return card;
  }

  /**
   * Take an answer to the picture looked at, and go on to the next open one.
   *
   * @param {string | null} label
   */
  answer(label) {
    const card = /** @type {Card} */ (this.#current);
    const { sample_id, round } = card.query;
    const before = card.answered ? card.label : undefined;
    card.label = label;
    if (!card.answered) {
      const place = this.#open.indexOf(card);
      card.answered = true;
      this.#seen.add(sample_id);
      this.#open.splice(place, 1);
      this.#answered = [...this.#answered, card].slice(-REMEMBERED);
      this.#current = this.#open[place] ?? this.#open[0] ?? null;
    } else {
      this.#current = this.#open[0] ?? null;
    }
    const corrects = before !== undefined;
    if (before !== label) this.app.outbox.add({ run: this.run, sample_id, round, label, corrects });
    if (this.#open.length === 0) this.state = "loading";
    this.#changed();
    if (this.#open.length <= LOW) this.fill();
  }

  /**
   * An answer was refused: the picture is open again, where it is still held.
   *
   * @param {number} sampleId
   */
  reopen(sampleId) {
    this.#seen.delete(sampleId);
    this.#answered = this.#answered.filter((card) => card.query.sample_id !== sampleId);
    if (this.#current?.query.sample_id === sampleId) this.#current = this.#open[0] ?? null;
    this.fill();
  }

  /** Hold enough pictures, and hold them longer. One request at a time. */
  async fill() {
    this.#isWanting = true;
    if (this.#isFilling) return;
    this.#isFilling = true;
    while (this.#isWanting && !this.signal.aborted) {
      this.#isWanting = false;
      await this.#ask();
    }
    this.#isFilling = false;
  }

  async #ask() {
    clearTimeout(this.#timer);
    this.#isStale = false;
    const unsent = this.app.outbox.waiting.filter((entry) => entry.run === this.run).length;
    const count = Math.min(100, HELD + unsent);
    try {
      await releasing;
      this.#hasAsked = true;
      const lease = await this.app.api.post(
        this.path,
        { session: this.app.session, count },
        { signal: this.signal },
      );
      this.#failures = 0;
      this.#take(lease);
    } catch (error) {
      if (this.signal.aborted) return;
      const passes = !(error instanceof Refusal) || error.passes;
      this.trouble = /** @type {Error} */ (error).message;
      this.#failures += 1;
      if (this.#open.length === 0) this.state = passes ? "unreachable" : "refused";
      this.#again(passes ? backoff(this.#failures) : 15_000);
    }
    this.#changed();
  }

  /** @param {import("./types.js").Lease} lease */
  #take(lease) {
    const isOther = lease.round?.round !== this.round?.round;
    if (isOther) {
      this.#answered = [];
      this.#seen.clear();
    }
    this.round = lease.round;
    this.mine = lease.mine;
    const held = new Map(
      lease.queries.filter((query) => this.#isOpen(query)).map((query) => [query.sample_id, query]),
    );
    const kept = this.#open.filter((card) => held.delete(card.query.sample_id));
    this.#open = [...kept, ...[...held.values()].map((query) => ({ query, answered: false, label: null }))];
    const lost = this.#current !== null && !this.cards.includes(this.#current);
    if (lost || this.#current === null) this.#current = this.#open[0] ?? null;
    if (lost && !isOther) this.dispatchEvent(new Event("lost"));
    this.trouble = "";
    if (this.#open.length > 0) {
      this.state = "ready";
      this.#renewBefore(lease.queries);
    } else if (lease.queries.length > 0) {
      // Answers to them are under way; what else there is will be asked for when they have arrived.
      this.state = "loading";
    } else {
      this.state = lease.round === null ? "idle" : lease.retry_seconds === null ? "answered" : "held";
      if (lease.retry_seconds !== null) this.#again(1000 * lease.retry_seconds);
    }
    if (isOther && lease.round) this.dispatchEvent(new Event("round"));
  }

  /** @param {import("./types.js").Query} query */
  #isOpen(query) {
    return !this.#seen.has(query.sample_id) && !this.app.outbox.has(this.run, query.sample_id);
  }

  /** @param {import("./types.js").Query[]} queries */
  #renewBefore(queries) {
    const ends = queries
      .map((query) => Date.parse(query.leased_until ?? ""))
      .filter((end) => !Number.isNaN(end));
    if (ends.length === 0) return;
    const left = Math.min(...ends) - this.app.api.now();
    this.#timer = setTimeout(
      () => {
        if (!document.hidden && Date.now() - this.#touched < AWAY_MS) this.fill();
        else this.#isStale = true;
      },
      Math.max(500, left * 0.5),
    );
  }

  /** @param {number} milliseconds */
  #again(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.fill(), milliseconds);
  }

  #release() {
    if (this.#hasAsked) releasing = this.app.api.farewell(`${this.path}/release`, { session: this.app.session });
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
