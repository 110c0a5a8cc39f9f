// A script of its own, loaded before the page is painted: a dark page must not flash white first.
try {
  const { theme } = JSON.parse(localStorage.getItem("dm2at.settings") ?? "{}");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage, or with something else in it, the system's own theme holds.
}
