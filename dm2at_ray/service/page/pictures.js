/** Pictures as the browser can show them, kept while they may be needed again. */

const KEPT = 80;

/** Pictures by fetch, as the token travels in a header; the last few are kept, older ones are freed. */
export class Pictures {
  /** @type {Map<string, Promise<string>>} least recently used first */
  #urls = new Map();
  #wanted = 0;

  /**
   * @param {import("./api.js").Api} api
   * @param {string} run
   * @param {AbortSignal} signal frees them all
   */
  constructor(api, run, signal) {
    this.api = api;
    this.run = run;
    this.signal = signal;
    signal.addEventListener("abort", () => {
      for (const key of [...this.#urls.keys()]) this.#free(key);
    });
  }

  /**
   * @param {number} sampleId
   * @param {"picture" | "twin"} [kind]
   * @param {RequestPriority} [priority]
   * @returns {Promise<string>} an address for an <img>
   */
  url(sampleId, kind = "picture", priority = "auto") {
    const key = `${sampleId}/${kind}`;
    const url = this.#urls.get(key) ?? this.#fetch(key, priority);
    this.#urls.delete(key);
    this.#urls.set(key, url);
    for (const old of [...this.#urls.keys()].slice(0, -KEPT)) this.#free(old);
    return url;
  }

  /**
   * Fetch pictures that will be looked at soon, in this order; a later call replaces the rest of an earlier
   * one.
   *
   * @param {number[]} sampleIds
   */
  async prefetch(sampleIds) {
    const turn = ++this.#wanted;
    for (const sampleId of sampleIds) {
      if (turn !== this.#wanted || this.signal.aborted) return;
      await this.url(sampleId, "picture", "low").catch(() => {});
    }
  }

  /** @param {string} key @param {RequestPriority} priority */
  async #fetch(key, priority) {
    try {
      const path = `runs/${encodeURIComponent(this.run)}/samples/${key}`;
      const blob = await this.api.blob(path, { signal: this.signal, priority });
      this.signal.throwIfAborted();
      return URL.createObjectURL(blob);
    } catch (error) {
      this.#urls.delete(key);
      throw error;
    }
  }

  /** @param {string} key */
  #free(key) {
    this.#urls.get(key)?.then(
      (url) => URL.revokeObjectURL(url),
      () => {},
    );
    this.#urls.delete(key);
  }
}

/**
 * Fill a small <img> as soon as its picture is there.
 *
 * @param {Pictures} pictures
 * @param {HTMLImageElement} img
 * @param {number} sampleId
 */
export async function showSmall(pictures, img, sampleId) {
  try {
    img.src = await pictures.url(sampleId);
  } catch (error) {
    img.classList.add("missing");
    img.title = /** @type {Error} */ (error).message;
  }
}
