// Light, dark, or as the system has it: kept in this browser. Runs before the page is drawn.

(() => {
  const KEY = "flash-edge-theme", NEXT = { auto: "light", light: "dark", dark: "auto" };
  const read = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const keep = (value) => { try { localStorage.setItem(KEY, value); } catch { /* a private window */ } };
  let theme = read() in NEXT ? read() : "auto";

  function show() {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
    document.dispatchEvent(new Event("themechange"));
  }

  show();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (button) {
      button.hidden = false;
      button.addEventListener("click", () => { theme = NEXT[theme]; keep(theme); show(); });
    }
    show();
  });
})();
