// Dark or light, as the reader chose; else as the system is set. Loaded before anything is drawn.
(() => {
  const root = document.documentElement;
  const read = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const show = (theme) => { if (theme) root.dataset.theme = theme; else delete root.dataset.theme; };
  show(read());
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme")) return;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const theme = dark ? "light" : "dark";
    show(theme);
    try { localStorage.setItem("theme", theme); } catch { /* a browser that keeps nothing */ }
    dispatchEvent(new Event("theme"));
  });
})();
