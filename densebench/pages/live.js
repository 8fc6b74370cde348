// Reloads the page as long as the work that it shows goes on, and puts the reader back to where they were.
(() => {
  const KEY = `densebench ${location.pathname}`, STALE = Math.max(600, 20 * REFRESH);
  const pause = document.querySelector("button.pause"), root = document.documentElement;
  const load = () => { try { return JSON.parse(sessionStorage.getItem(KEY)) || {}; } catch { return {}; } };
  const kept = load();
  let paused = Boolean(kept.paused), pressed = false;

  const fields = () => [...document.querySelectorAll("input[id], select[id]")];
  const folds = () => {
    const count = {};
    return [...document.querySelectorAll("details")].map(each => {
      const name = each.firstElementChild.textContent;
      count[name] = (count[name] || 0) + 1;
      return [`${count[name]} ${name}`, each];
    });
  };
  // The place is a heading and how far it is from the top: what is above it may become longer.
  const headings = () => [...document.querySelectorAll("h1, h2")];
  const place = () => {
    const above = headings().filter(each => each.getBoundingClientRect().top <= 40).pop() || headings()[0];
    return {name: above.textContent, top: above.getBoundingClientRect().top};
  };
  const save = () => {
    const state = {
      paused, place: place(), focus: document.activeElement?.id || "", theme: root.dataset.theme || "",
      open: Object.fromEntries(folds().map(([name, each]) => [name, each.open])),
      values: Object.fromEntries(fields().map(each => [each.id, {value: each.value, last: each.value === each.max}])),
    };
    try { sessionStorage.setItem(KEY, JSON.stringify(state)); } catch { /* a browser that keeps nothing */ }
  };
  const restore = () => {
    if (kept.theme && kept.theme !== root.dataset.theme) {
      document.querySelector("button.theme").click();
      root.dataset.theme = kept.theme;
    }
    for (const [name, each] of folds()) each.open = kept.open?.[name] ?? each.open;
    for (const field of fields()) {
      const before = kept.values?.[field.id];
      if (!before) continue;
      field.value = before.last ? field.max : before.value;  // at the newest, it follows what comes
      field.dispatchEvent(new Event("input", {bubbles: true}));
    }
    if (kept.focus) document.getElementById(kept.focus)?.focus({preventScroll: true});
    const heading = headings().find(each => each.textContent === kept.place?.name);
    if (heading) scrollTo(scrollX, scrollY + heading.getBoundingClientRect().top - kept.place.top);
  };

  if (kept.place) history.scrollRestoration = "manual";
  addEventListener("pagehide", save);
  addEventListener("load", restore);
  if (!REFRESH) return;

  const show = () => {
    pause.hidden = false;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
  };
  pause.addEventListener("click", () => { paused = !paused; show(); save(); });
  show();
  for (const kind of ["pointerdown", "pointerup", "pointercancel"]) {
    addEventListener(kind, () => { pressed = kind === "pointerdown"; });
  }
  const age = () => Date.now() / 1000 - CHANGED;
  const began = Date.now();
  setInterval(() => {
    const waited = (Date.now() - began) / 1000, is_stale = age() > STALE;
    document.querySelector(".stale").textContent =
      is_stale ? `, ${Math.round(age() / 60)} min ago (the process may have been killed)` : "";
    const busy = paused || pressed || document.hidden || String(getSelection());
    if (!busy && waited >= (is_stale ? 60 : REFRESH)) { save(); location.reload(); }
  }, 500);
})();
