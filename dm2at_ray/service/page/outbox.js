import { Refusal } from "./api.js";
import { newSession } from "./session.js";
import { Store } from "./storage.js";
import { backoff } from "./wait.js";

/**
 * An answer that the service has not acknowledged yet.
 *
 * @typedef {object} Entry
 * @property {string} id
 * @property {string} run
 * @property {string} who the name of the token that it was given under: nobody else may send it
 * @property {number} sample_id
 * @property {number} round
 * @property {string | null} label
 * @property {boolean} corrects whether it replaces an answer of this page
 */

const PREFIX = "dm2at.outbox.";
const MOST_AT_ONCE = 100;
const BEAT_MS = 20_000;
/** A tab that has not said a word for so long is gone; browsers wake hidden ones once a minute. */
const GONE_MS = 150_000;

/**
 * Answers on their way to the service. Each is in the browser's storage before the next picture is shown and
 * until the service has it on disk; they are sent in the order in which they were given. What a tab could not
 * send before it was closed is sent by another one of the same person.
 *
 * Events: `change`; `taken` (detail: {entry, answered, report}); `refused` (detail: {entry, why}).
 */
export class Outbox extends EventTarget {
  #store = new Store("localStorage");
  #working = false;
  #failures = 0;
  /** @type {() => void} */
  #wake = () => {};

  /** Why the last attempt failed; null while all goes well. @type {string | null} */
  trouble = null;
  /** Whether what waits here outlives the page. */
  isKept = true;

  /**
   * @param {import("./api.js").Api} api
   * @param {string} session of this tab
   * @param {string} who the name of its token
   */
  constructor(api, session, who) {
    super();
    this.api = api;
    this.session = session;
    this.who = who;
    addEventListener("online", () => this.tryNow());
    addEventListener("pagehide", () => this.#write(this.#read(), 0));
    setInterval(() => this.#beat(), BEAT_MS);
    this.#beat();
  }

  /** @returns {Entry[]} what this tab has to send, oldest first */
  get waiting() {
    return this.#read().filter((entry) => entry.who === this.who);
  }

  /** @returns {Entry[]} what other people have left in this browser */
  get others() {
    return this.#keys().flatMap((key) => this.#entries(key).filter((entry) => entry.who !== this.who));
  }

  /**
   * @param {string} run
   * @param {number} sampleId
   */
  has(run, sampleId) {
    return this.waiting.some((entry) => entry.run === run && entry.sample_id === sampleId);
  }

  /** @param {Omit<Entry, "id" | "who">} answer */
  add(answer) {
    this.#write([...this.#read(), { ...answer, id: newSession(), who: this.who }]);
    this.#changed();
    this.#work();
  }

  /** Try again at once. */
  tryNow() {
    this.#wake();
    this.#work();
  }

  async #work() {
    if (this.#working) return;
    this.#working = true;
    let most = MOST_AT_ONCE;
    for (let batch = this.#batch(most); batch.length > 0; batch = this.#batch(most)) {
      try {
        this.#settle(batch, await this.#send(batch));
        this.#fine();
      } catch (error) {
        if (!(error instanceof Refusal) || error.passes || error.status === 403) {
          await this.#stumble(/** @type {Error} */ (error));
        } else if (batch.length > 1) {
          // One of them is to blame; the others go through.
          most = 1;
        } else {
          this.#drop(batch);
          this.#tell("refused", { entry: batch[0], why: error.message });
          this.#fine();
        }
      }
    }
    this.#working = false;
    this.#changed();
  }

  /** @param {Entry[]} batch @returns {Promise<import("./types.js").AnswersReport>} */
  #send(batch) {
    return this.api.post(`runs/${encodeURIComponent(batch[0].run)}/labels`, {
      answers: batch.map(({ sample_id, round, label }) => ({ sample_id, round, label })),
      session: this.session,
      keep_good: true,
    });
  }

  /**
   * @param {Entry[]} batch
   * @param {import("./types.js").AnswersReport} report
   */
  #settle(batch, report) {
    this.#drop(batch);
    batch.forEach((entry, place) => {
      const answered = report.outcomes[place];
      if (isRefused(answered.outcome))
        this.#tell("refused", { entry, why: answered.detail || answered.outcome });
      else this.#tell("taken", { entry, answered, report });
    });
  }

  /**
   * What can be sent in one request: of one run, each sample once, so that a correction follows what it
   * corrects.
   *
   * @param {number} most
   */
  #batch(most) {
    /** @type {Entry[]} */
    const batch = [];
    for (const entry of this.waiting) {
      if (batch.length === most || (batch[0] && batch[0].run !== entry.run)) break;
      if (batch.some(({ sample_id }) => sample_id === entry.sample_id)) break;
      batch.push(entry);
    }
    return batch;
  }

  /** @param {Error} error */
  async #stumble(error) {
    this.#failures += 1;
    this.trouble = error.message;
    this.#changed();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, backoff(this.#failures));
      this.#wake = () => (clearTimeout(timer), resolve(null));
    });
  }

  #fine() {
    this.#failures = 0;
    this.trouble = null;
    this.#changed();
  }

  /** Say that this tab is alive, and take over what tabs of the same person have left that are not. */
  #beat() {
    for (const key of this.#keys()) {
      const box = this.#store.read(key);
      if (key === this.#key || Date.now() - (box?.beat ?? 0) < GONE_MS) continue;
      const mine = this.#entries(key).filter((entry) => entry.who === this.who);
      const rest = this.#entries(key).filter((entry) => entry.who !== this.who);
      if (mine.length === 0) continue;
      this.#write([...this.#read(), ...mine]);
      this.#store.write(key, rest.length ? { beat: 0, entries: rest } : null);
    }
    if (this.#read().length > 0) this.#write(this.#read());
    this.#changed();
    this.#work();
  }

  get #key() {
    return PREFIX + this.session;
  }

  #keys() {
    return [...new Set([this.#key, ...this.#store.keys(PREFIX)])];
  }

  #read() {
    return this.#entries(this.#key);
  }

  /** @param {string} key @returns {Entry[]} */
  #entries(key) {
    return this.#store.read(key)?.entries ?? [];
  }

  /** @param {Entry[]} entries @param {number} [beat] */
  #write(entries, beat = Date.now()) {
    this.isKept = this.#store.write(this.#key, entries.length ? { beat, entries } : null);
  }

  /** @param {Entry[]} batch */
  #drop(batch) {
    const sent = new Set(batch.map((entry) => entry.id));
    this.#write(this.#read().filter((entry) => !sent.has(entry.id)));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} name @param {any} detail */
  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** @param {import("./types.js").Outcome} outcome */
function isRefused(outcome) {
  return !["new", "skipped", "correction", "same"].includes(outcome);
}
