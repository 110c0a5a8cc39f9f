import { Refusal } from "./api.js";
import { h } from "./dom.js";

/**
 * Ask for a token until the service takes one. A dialog over the page: what is on it, and what has not been
 * sent yet, is still there afterwards.
 *
 * @param {import("./api.js").Api} api
 * @param {boolean} again whether there was a token before
 * @returns {Promise<{token: string, me: import("./types.js").Me}>}
 */
export function askForToken(api, again) {
  const input = h("input", {
    type: "password",
    id: "token",
    name: "token",
    required: true,
    autocomplete: "current-password",
    autocapitalize: "off",
    spellcheck: "false",
    "aria-describedby": "token-about token-wrong",
  });
  const wrong = h("p", { id: "token-wrong", class: "wrong", role: "alert" });
  const button = h("button", { class: "primary" }, "Log in");
  const form = h(
    "form",
    { class: "login" },
    h("h2", { id: "login-title" }, again ? "Log in again" : "Log in"),
    h(
      "p",
      { id: "token-about" },
      again
        ? "Your token is not taken any more. Nothing is lost: with a token you go on where you are."
        : "This service asks for a token. It is kept until this tab is closed.",
    ),
    h("label", { for: "token" }, "Token"),
    input,
    wrong,
    h("div", { class: "buttons" }, button),
  );
  const dialog = h("dialog", { "aria-labelledby": "login-title", class: "login" }, form);
  // Without a token there is nothing behind it to go back to; browsers let the second Escape close it still.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("close", () => dialog.isConnected && dialog.showModal());
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const token = input.value.trim();
      if (!token) return;
      button.disabled = true;
      wrong.textContent = "";
      try {
        // Others cannot even be sent.
        if (!/^[!-~]+$/.test(token)) throw new Refusal(401, {});
        const me = await api.me(token);
        dialog.remove();
        resolve({ token, me });
      } catch (error) {
        wrong.textContent =
          error instanceof Refusal && error.status === 401
            ? "The service does not know this token. Look for a missing or a wrong character."
            : /** @type {Error} */ (error).message;
        input.setAttribute("aria-invalid", "true");
        input.select();
        input.focus();
      } finally {
        button.disabled = false;
      }
    });
  });
}
