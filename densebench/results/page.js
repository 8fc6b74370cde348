// Search and filters: they hide rows, pictures and tables, and say how much is left.
(() => {
  const form = document.querySelector("form.tools");
  const text = (element) => element.textContent.replace(/\s+/g, " ").toLowerCase();
  const blocks = [...document.querySelectorAll("article.block")].map((article) => ({
    article,
    datasets: JSON.parse(article.dataset.datasets),
    protocols: JSON.parse(article.dataset.protocols),
    rows: [...article.querySelector("table").tBodies[0].rows],
    others: [...article.querySelectorAll("[data-backbone]")].filter((each) => each.localName !== "tr"),
    link: document.querySelector(`.contents a[href="#${CSS.escape(article.querySelector("h3").id)}"]`),
  }));
  const parts = [...document.querySelectorAll("section.part")];
  const count = form.querySelector(".count"), nothing = document.querySelector(".nothing");
  const total = blocks.reduce((sum, block) => sum + block.rows.length, 0);

  const chosen = (name) => new Set([...form.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value));
  const any = (values, wanted) => !wanted.size || values.some((value) => wanted.has(value));

  // The words of a block are read once, when they are first searched.
  const read = (block) => {
    if (block.head !== undefined) return;
    const { article, rows } = block, section = article.closest("section.part").querySelector("h2");
    block.head = [section, article.querySelector("h3"), article.querySelector(".facts")].filter(Boolean).map(text).join(" ");
    block.texts = rows.map((row) => `${block.head} ${text(row)}`);
    const scroll = article.querySelector(".scroll");
    block.rest = [...article.children].filter((child) => child !== scroll).map(text).join(" ");
    for (const image of article.querySelectorAll("img")) block.rest += ` ${image.alt.toLowerCase()}`;
  };

  const filter = (block, words, wanted) => {
    const { article, rows, others } = block;
    const open = any(block.datasets, wanted.dataset) && any(block.protocols, wanted.protocol);
    const of = (element) => !element.dataset.backbone || !wanted.backbone.size || wanted.backbone.has(element.dataset.backbone);
    if (words.length) read(block);
    const found = (index) => words.every((word) => block.texts[index].includes(word));
    const hits = rows.map((row, index) => open && of(row) && found(index));
    const elsewhere = open && words.length > 0 && !hits.includes(true) && words.every((word) => `${block.head} ${block.rest}`.includes(word));
    rows.forEach((row, index) => { row.hidden = !(elsewhere ? of(row) : hits[index]); });
    for (const each of others) {
      each.hidden = !of(each);
      if (each.localName === "th") hideColumn(each);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    article.hidden = !shown;
    if (block.link) block.link.parentElement.hidden = !shown;
    for (const details of article.querySelectorAll("details.more")) {
      const holds = elsewhere && words.some((word) => text(details).includes(word));
      if (holds && !details.open) { details.open = details.opened = true; }
      else if (!holds && details.opened) { details.open = details.opened = false; }
    }
    return shown;
  };

  const hideColumn = (heading) => {
    for (const row of heading.closest("table").tBodies[0].rows) row.cells[heading.cellIndex].hidden = heading.hidden;
  };

  const mark = (words) => {
    if (!window.Highlight || !CSS.highlights) return;
    CSS.highlights.delete("found");
    if (!words.length) return;
    const ranges = [];
    const walker = document.createTreeWalker(document.querySelector(".body"), NodeFilter.SHOW_TEXT);
    while (walker.nextNode() && ranges.length < 2000) {
      const { data } = walker.currentNode, lower = data.toLowerCase();
      if (lower.length !== data.length) continue;
      for (const word of words) {
        for (let at = lower.indexOf(word); at >= 0; at = lower.indexOf(word, at + word.length)) {
          const range = new Range();
          range.setStart(walker.currentNode, at);
          range.setEnd(walker.currentNode, at + word.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  };

  const update = () => {
    const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = Object.fromEntries(["dataset", "protocol", "backbone"].map((name) => [name, chosen(name)]));
    const rows = blocks.reduce((sum, block) => sum + filter(block, words, wanted), 0);
    const tables = blocks.filter((block) => !block.article.hidden).length;
    for (const part of parts) {
      const shown = part.querySelector("article:not([hidden])") !== null;
      part.hidden = !shown;
      const link = document.querySelector(`.contents a[href="#${CSS.escape(part.querySelector("h2").id)}"]`);
      if (link) link.parentElement.hidden = !shown;
    }
    for (const choice of form.querySelectorAll(".choice")) {
      const names = [...wanted[choice.dataset.name]];
      choice.querySelector(".chosen").textContent = !names.length ? "all" : names.length === 1 ? names[0] : `${names.length}`;
    }
    nothing.hidden = tables > 0;
    count.textContent = `${rows} of ${total} rows in ${tables} of ${blocks.length} tables`;
    mark(words);
  };

  let waiting = 0;
  form.hidden = false;
  form.addEventListener("input", (event) => {
    if (event.target.name === "costs") {
      document.body.classList.toggle("no-costs", !event.target.checked);
      return;
    }
    clearTimeout(waiting);
    if (event.target.name === "search") waiting = setTimeout(update, 150);
    else update();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(waiting); update(); });
  form.addEventListener("reset", () => setTimeout(() => {
    document.body.classList.remove("no-costs");
    for (const table of document.querySelectorAll("table.sortable")) table.dispatchEvent(new Event("unsort"));
    update();
  }));
  const choices = [...form.querySelectorAll(".choice")];
  form.addEventListener("keydown", (event) => {
    const choice = event.key === "Escape" && event.target.closest(".choice[open]");
    if (choice) { choice.open = false; choice.querySelector("summary").focus(); }
  });
  for (const choice of choices) {
    choice.addEventListener("toggle", () => {
      const list = choice.querySelector("fieldset");
      list.style.left = "0";
      list.style.left = `${Math.min(0, document.documentElement.clientWidth - list.getBoundingClientRect().right - 8)}px`;
    });
  }
  document.addEventListener("click", (event) => {
    for (const choice of choices) if (!choice.contains(event.target)) choice.open = false;
  });
  if (matchMedia("(max-width: 63.99rem)").matches) document.querySelector(".contents details").open = false;
  update();
})();
