"use strict";
// Everything here adds to a page that is complete without it. A page's own script may call `page.say`.
const page = {
  // Let screen readers say a text.
  say(text) { document.getElementById("said").textContent = text; },
};

// The theme is the system's until the button changes it.
(() => {
  const root = document.documentElement;
  const button = document.querySelector("button.theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const show = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; show(); });
  show();
})();

// Commands are copied by a button; where the browser allows no copying, the command is selected instead.
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    page.say(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// What a term means shows beside it, on hover, on focus and on a click; Esc hides it.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.querySelector("main").append(tip);
  let shown = null, waiting = 0;
  const hide = () => {
    clearTimeout(waiting);
    shown?.removeAttribute("aria-describedby");
    tip.hidden = true;
    shown = null;
  };
  const show = (term) => {
    const entry = document.getElementById(term.hash.slice(1));
    if (!entry) return;
    hide();
    shown = term;
    const name = document.createElement("strong");
    name.textContent = entry.textContent;
    tip.replaceChildren(name, " ", ...[...entry.nextElementSibling.childNodes].map((node) => node.cloneNode(true)));
    tip.hidden = false;
    term.setAttribute("aria-describedby", "tip");
    const place = term.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = place.bottom + tip.offsetHeight + 8 < innerHeight || place.top < tip.offsetHeight + 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? place.bottom + 4 : place.top - tip.offsetHeight - 4}px`;
  };
  const later = () => { clearTimeout(waiting); waiting = setTimeout(hide, 200); };
  const stay = () => clearTimeout(waiting);
  for (const term of document.querySelectorAll("a.term")) {
    term.addEventListener("mouseenter", () => show(term));
    term.addEventListener("mouseleave", later);
    term.addEventListener("focus", () => show(term));
    term.addEventListener("blur", hide);
    term.addEventListener("click", (event) => { event.preventDefault(); if (shown !== term) show(term); });
  }
  tip.addEventListener("mouseenter", stay);
  tip.addEventListener("mouseleave", later);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", () => { if (shown) hide(); }, { passive: true });
})();

// Tables sort by a column: first the way its heading asks for, then the other way, then as they were.
(() => {
  const other = { ascending: "descending", descending: "ascending" };
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const key = (cell, numeric) => {
    if (!numeric) return cell.textContent.trim() || null;
    const number = parseFloat(cell.dataset.value ?? cell.textContent.replace(/,/g, "").replace("−", "-"));
    return Number.isNaN(number) ? null : number;
  };
  const sort = (table, heading, direction) => {
    table.original ??= [...table.tBodies[0].rows];
    for (const each of table.querySelectorAll("th[aria-sort]")) each.removeAttribute("aria-sort");
    let rows = table.original;
    if (direction) {
      heading.setAttribute("aria-sort", direction);
      const numeric = heading.dataset.sort === "number", sign = direction === "ascending" ? 1 : -1;
      const keyed = rows.map((row) => [key(row.cells[heading.cellIndex], numeric), row]);
      const order = ([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (numeric ? a - b : compare(a, b));
      rows = keyed.sort(order).map(([, row]) => row); // rows without a value stay last; equal ones keep their order
    }
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = table.tHead.rows[table.tHead.rows.length - 1].cells;
    for (const heading of headings) {
      const name = heading.querySelector(".name");
      if (!heading.dataset.sort || !name) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort name";
      button.append(...name.childNodes);
      name.replaceWith(button);
      button.addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort"), first = heading.dataset.first ?? "ascending";
        const next = now === null ? first : now === first ? other[first] : "";
        sort(table, heading, next);
        page.say(next ? `Sorted by ${button.textContent}, ${next}.` : "In the original order.");
      });
    }
    table.addEventListener("unsort", () => sort(table, null, ""));
  }
})();

// Pictures of the class `enlarge` open in a dialog, in which the arrow keys lead to the next one; Esc closes it.
(() => {
  const pictures = [...document.querySelectorAll("img.enlarge")];
  if (!pictures.length) return;
  const element = (name, text, action) => {
    const made = document.createElement(name);
    made.append(text ?? "");
    if (action) { made.type = "button"; made.addEventListener("click", action); }
    return made;
  };
  const dialog = element("dialog"), image = element("img"), caption = element("figcaption"), count = element("span");
  const visible = () => pictures.filter((picture) => picture.checkVisibility());
  let opener = null, at = null;
  const show = (picture) => {
    const among = visible();
    at = picture;
    image.src = picture.src;
    image.alt = picture.alt;
    caption.textContent = picture.alt;
    count.textContent = `${among.indexOf(picture) + 1} of ${among.length}`;
  };
  const step = (by) => { const among = visible(); show(among[(among.indexOf(at) + by + among.length) % among.length]); };
  const figure = element("figure"), bar = element("div");
  const back = element("button", "Previous", () => step(-1)), next = element("button", "Next", () => step(1));
  const close = element("button", "Close", () => dialog.close());
  dialog.className = "viewer";
  dialog.setAttribute("aria-label", "Enlarged picture");
  count.setAttribute("role", "status");
  bar.append(back, count, next, close);
  figure.append(image, caption);
  dialog.append(bar, figure);
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); step(event.key === "ArrowRight" ? 1 : -1); }
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => opener.focus());
  document.body.append(dialog);
  for (const picture of pictures) {
    const button = element("button", null, () => { opener = button; show(picture); dialog.showModal(); close.focus(); });
    button.className = "enlarge";
    picture.replaceWith(button);
    button.append(picture);
    button.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  }
})();

// On paper everything is unfolded.
(() => {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    for (const each of folded) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of folded) each.open = false; });
})();
