/** Storage of the browser that may be switched off or full: then what is written lasts as long as the page. */
export class Store {
  /** @type {Storage | null} */
  #storage;
  /** @type {Map<string, string>} */
  #memory = new Map();

  /** @param {"localStorage" | "sessionStorage"} kind */
  constructor(kind) {
    try {
      this.#storage = window[kind];
      this.#storage.getItem("dm2at");
    } catch {
      this.#storage = null;
    }
  }

  /**
   * @param {string} key
   * @returns {any} what was written as JSON; null where there is nothing, or nothing that can be read
   */
  read(key) {
    try {
      return JSON.parse(this.#memory.get(key) ?? this.#storage?.getItem(key) ?? "null");
    } catch {
      return null;
    }
  }

  /**
   * @param {string} key
   * @param {any} value null removes it
   * @returns {boolean} whether it outlives the page
   */
  write(key, value) {
    try {
      if (!this.#storage) throw new Error("no storage");
      if (value === null) this.#storage.removeItem(key);
      else this.#storage.setItem(key, JSON.stringify(value));
      this.#memory.delete(key);
      return true;
    } catch {
      this.#memory.set(key, JSON.stringify(value));
      return false;
    }
  }

  /** @param {string} prefix */
  keys(prefix) {
    return this.#storage ? Object.keys(this.#storage).filter((key) => key.startsWith(prefix)) : [];
  }
}
