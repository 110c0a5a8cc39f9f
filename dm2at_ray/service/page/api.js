import { Store } from "./storage.js";

/**
 * `limit`: milliseconds to wait for an answer.
 *
 * @typedef {{signal?: AbortSignal, keepalive?: boolean, priority?: RequestPriority, limit?: number}} Options
 */

const TOKEN = "dm2at.token";
const ANSWER_MS = 20_000;
const PICTURE_MS = 60_000;

/** The service has answered that it will not, in RFC 9457's words. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {{type?: string, title?: string, detail?: string} & Record<string, any>} problem
   */
  constructor(status, problem) {
    super(problem.detail || problem.title || `The service answered with status ${status}.`);
    this.status = status;
    this.kind = (problem.type ?? "").split("/").pop() ?? "";
    this.problem = problem;
  }

  /** Whether the same request may well succeed later. */
  get passes() {
    return this.status >= 500 || this.status === 408 || this.status === 429;
  }
}

/** The service has not answered. */
export class Unreachable extends Error {
  constructor() {
    super("The service does not answer.");
  }
}

/** The service's HTTP API, with the token that it asks for. */
export class Api {
  #store = new Store("sessionStorage");
  /** @type {string | null} */
  #token = this.#store.read(TOKEN);
  /** @type {Promise<void> | null} */
  #login = null;
  /** How far the service's clock is ahead of this one. */
  #ahead = 0;

  /**
   * @param {string} base address of the API
   * @param {(again: boolean) => Promise<string>} ask gets a token from the person that the service takes;
   *   `again` says that there was one before
   */
  constructor(base, ask) {
    this.base = base;
    this.ask = ask;
  }

  get hasToken() {
    return this.#token !== null;
  }

  /** @param {string | null} token */
  keepToken(token) {
    this.#token = token;
    this.#store.write(TOKEN, token);
  }

  /** @returns {number} the service's time, in milliseconds */
  now() {
    return Date.now() + this.#ahead;
  }

  /**
   * Who has a token.
   *
   * @param {string | null} token
   * @returns {Promise<import("./types.js").Me>}
   */
  async me(token = this.#token) {
    const response = await this.#fetch("GET", "me", token, ANSWER_MS, {});
    if (!response.ok) throw await refusal(response);
    return whole(response.json());
  }

  /**
   * @param {string} path
   * @param {Options} [options]
   * @returns {Promise<any>}
   */
  async get(path, options = {}) {
    const response = await this.#send("GET", path, ANSWER_MS, options);
    return whole(response.json(), options.signal);
  }

  /**
   * @param {string} path
   * @param {any} body
   * @param {Options} [options]
   * @returns {Promise<any>}
   */
  async post(path, body, options = {}) {
    const response = await this.#send(
      "POST",
      path,
      options.limit ?? ANSWER_MS,
      options,
      JSON.stringify(body ?? {}),
    );
    return response.status === 204 ? null : whole(response.json(), options.signal);
  }

  /**
   * @param {string} path
   * @param {Options} [options]
   * @returns {Promise<Blob>}
   */
  async blob(path, options = {}) {
    const response = await this.#send("GET", path, PICTURE_MS, options);
    return whole(response.blob(), options.signal);
  }

  /**
   * Something long, as it comes.
   *
   * @param {string} path
   * @param {Options} [options]
   * @returns {Promise<Response>}
   */
  async open(path, options = {}) {
    return this.#send("GET", path, null, options);
  }

  /**
   * Send what need not arrive; it outlives the page.
   *
   * @param {string} path
   * @param {any} body
   * @returns {Promise<void>} never rejected
   */
  farewell(path, body) {
    const sent = this.#fetch("POST", path, this.#token, 5_000, { keepalive: true }, JSON.stringify(body));
    return sent.then(
      () => {},
      () => {},
    );
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {number | null} limit milliseconds
   * @param {Options} options
   * @param {string} [body]
   */
  async #send(method, path, limit, options, body) {
    for (;;) {
      const token = this.#token;
      const response = await this.#fetch(method, path, token, limit, options, body);
      if (response.ok) return response;
      if (response.status !== 401) throw await refusal(response);
      // Another request may have brought a new token meanwhile.
      if (token === this.#token) await unless(options.signal, this.#logIn());
    }
  }

  async #logIn() {
    this.#login ??= this.ask(this.hasToken)
      .then((token) => this.keepToken(token))
      .finally(() => (this.#login = null));
    return this.#login;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {string | null} token
   * @param {number | null} limit
   * @param {Options} options
   * @param {string} [body]
   */
  async #fetch(method, path, token, limit, options, body) {
    const signals = [options.signal, limit === null ? null : AbortSignal.timeout(limit)];
    try {
      const response = await fetch(new URL(path, this.base), {
        method,
        body,
        headers: {
          ...(token === null ? {} : { Authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        },
        keepalive: options.keepalive,
        priority: options.priority,
        credentials: "same-origin",
        signal: AbortSignal.any(signals.filter((signal) => signal instanceof AbortSignal)),
      });
      const date = Date.parse(response.headers.get("Date") ?? "");
      // What came from the browser's cache has the time of another day.
      if (method === "POST" && !Number.isNaN(date)) this.#ahead = date - Date.now();
      return response;
    } catch (error) {
      options.signal?.throwIfAborted();
      throw new Unreachable();
    }
  }
}

/** @param {Response} response */
async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  return new Refusal(response.status, problem ?? {});
}

/**
 * The body of an answer, which may break off.
 *
 * @template T
 * @param {Promise<T>} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
async function whole(body, signal) {
  try {
    return await body;
  } catch {
    signal?.throwIfAborted();
    throw new Unreachable();
  }
}

/**
 * Wait for a promise, unless a signal comes first.
 *
 * @param {AbortSignal | undefined} signal
 * @param {Promise<void>} promise
 * @returns {Promise<void>}
 */
function unless(signal, promise) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
  });
}
