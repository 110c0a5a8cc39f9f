/** The last so many pictures are kept, if they are small; always as many as are looked at together. */
const MOST = 80;
const FEWEST = 12;
const MOST_BYTES = 64 * 2 ** 20;

/** Pictures by fetch, as the token travels in a header; the last few are kept, older ones are freed. */
export class Pictures {
  /** @type {Map<string, {url: Promise<string>, bytes: number}>} least recently used first */
  #kept = new Map();
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
      for (const key of [...this.#kept.keys()]) this.#free(key);
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
    const picture = this.#kept.get(key) ?? { url: this.#fetch(key, priority), bytes: 0 };
    this.#kept.delete(key);
    this.#kept.set(key, picture);
    return picture.url;
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
      const picture = this.#kept.get(key);
      if (picture) picture.bytes = blob.size;
      this.#trim();
      return URL.createObjectURL(blob);
    } catch (error) {
      this.#kept.delete(key);
      throw error;
    }
  }

  #trim() {
    let bytes = [...this.#kept.values()].reduce((sum, picture) => sum + picture.bytes, 0);
    for (const [key, picture] of this.#kept) {
      if (this.#kept.size <= FEWEST || (this.#kept.size <= MOST && bytes <= MOST_BYTES)) return;
      bytes -= picture.bytes;
      this.#free(key);
    }
  }

  /** @param {string} key */
  #free(key) {
    this.#kept.get(key)?.url.then(
      (url) => URL.revokeObjectURL(url),
      () => {},
    );
    this.#kept.delete(key);
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
