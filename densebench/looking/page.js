"use strict";
// A reader picks a picture, and a query patch in any picture: its cosines are computed here, from the features in the page.
(async () => {
  const select = document.querySelector(".which select");
  if (select) {
    select.parentElement.hidden = false;
    select.addEventListener("change", () => {
      for (const row of document.querySelectorAll(".row")) row.hidden = select.value !== "" && row.dataset.picture !== select.value;
    });
  }

  // What is shown begins at the top after a choice, not where a longer page was scrolled to.
  const bar = document.querySelector(".choice");
  bar?.addEventListener("change", () => {
    const first = [...document.querySelectorAll("section.kind")].find((kind) => kind.offsetParent !== null);
    if (first && first.getBoundingClientRect().top < 0) first.scrollIntoView();
  });

  const section = document.getElementById("similarity");
  const holder = document.getElementById("known");
  if (!section || !holder || typeof DecompressionStream === "undefined") return;
  const known = JSON.parse(holder.textContent);
  const make = (name, values = {}, ...inside) => {
    const element = Object.assign(document.createElement(name), values);
    element.append(...inside);
    return element;
  };

  const unpacked = async (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Int8Array(await new Response(stream).arrayBuffer());
  };

  // A view is what one backbone makes of one picture: its numbers, a plane for each dimension, and where it is shown.
  const rows = [...section.querySelectorAll(".row")];
  const views = [];
  for (const [backbone, each] of known.backbones.entries()) {
    const numbers = await unpacked(each.content);
    let start = 0;
    each.sizes.forEach(([height, width], picture) => {
      const count = height * width;
      const planes = numbers.subarray(start, start += each.dims * count);
      views.push({backbone, picture, height, width, count, planes, dims: each.dims, values: new Float32Array(count)});
    });
  }

  const SVG = "http://www.w3.org/2000/svg";
  for (const view of views) {
    const cell = rows[view.picture].querySelectorAll(".cells:not(.later) .cell")[view.backbone + 1];
    const map = cell.querySelector(".map");
    view.canvas = make("canvas", {width: view.width, height: view.height});
    view.canvas.setAttribute("role", "img");
    view.context = view.canvas.getContext("2d");
    view.pixels = view.context.createImageData(view.width, view.height);
    const marks = document.createElementNS(SVG, "svg");
    marks.setAttribute("class", "marks");
    marks.setAttribute("viewBox", `0 0 ${view.width} ${view.height}`);
    marks.setAttribute("preserveAspectRatio", "none");
    marks.setAttribute("aria-hidden", "true");
    view.paths = [0, 1].map(() => marks.appendChild(document.createElementNS(SVG, "path")));
    view.rings = [0, 1].map(() => marks.appendChild(document.createElementNS(SVG, "circle")));
    map.replaceChildren(view.canvas, marks);
    view.value = make("span", {className: "note value"});
    cell.querySelector("figcaption").append(view.value);
  }

  const at = (view, y, x) => {
    const row = Math.min(view.height - 1, Math.floor(y * view.height));
    return row * view.width + Math.min(view.width - 1, Math.floor(x * view.width));
  };
  const words = (cosine) => cosine.toFixed(2).replace("-", "−");

  let query = {picture: 0, y: 0.5, x: 0.5};
  let stretched = false;

  const compute = () => {
    for (const [backbone] of known.backbones.entries()) {
      const own = views.filter((view) => view.backbone === backbone);
      const from = own[query.picture];
      const patch = at(from, query.y, query.x);
      for (const view of own) {
        const {values, planes, count, dims} = view;
        values.fill(0);
        for (let dim = 0; dim < dims; dim++) {
          const factor = from.planes[dim * from.count + patch];
          if (factor !== 0) for (let index = 0, place = dim * count; index < count; index++, place++) values[index] += factor * planes[place];
        }
        let best = -1;
        for (let index = 0; index < count; index++) {
          values[index] = Math.max(-1, Math.min(1, values[index] * known.step * known.step));
          if (view === from && index === patch) values[index] = 1;
          else if (best < 0 || values[index] > values[best]) best = index;
        }
        view.best = best;
      }
      own.low = 0;
      own.high = 1;
      if (stretched) {
        own.low = Math.min(...own.map((view) => view.values.reduce((one, other) => Math.min(one, other), 1)));
        own.high = Math.max(own.low + 1e-6, ...own.map((view) => (view.best < 0 ? -1 : view.values[view.best])));
      }
      for (const view of own) draw(view, own.low, own.high, view === from ? patch : -1);
    }
  };

  const draw = (view, low, high, patch) => {
    const {values, pixels, width} = view;
    const last = known.scale.length - 1;
    for (let index = 0; index < view.count; index++) {
      const share = Math.max(0, Math.min(1, (values[index] - low) / (high - low)));
      const colour = known.scale[Math.round(share * last)];
      pixels.data[4 * index] = colour[0];
      pixels.data[4 * index + 1] = colour[1];
      pixels.data[4 * index + 2] = colour[2];
      pixels.data[4 * index + 3] = 255;
    }
    view.context.putImageData(pixels, 0, 0);
    const outline = patch < 0 ? "" : `M${patch % width} ${Math.floor(patch / width)}h1v1h-1z`;
    for (const path of view.paths) path.setAttribute("d", outline);
    for (const ring of view.rings) {
      ring.setAttribute("cx", (view.best % width) + 0.5);
      ring.setAttribute("cy", Math.floor(view.best / width) + 0.5);
      ring.setAttribute("r", view.best < 0 ? 0 : 0.9);
    }
    const range = stretched ? `, ${words(low)} to ${words(high)}` : "";
    view.value.textContent = view.best < 0 ? "" : `highest ${words(values[view.best])}${range}`;
    view.canvas.dataset.highest = view.best < 0 ? "" : values[view.best];
    view.canvas.dataset.patch = view.best;
    const name = known.backbones[view.backbone].name;
    view.canvas.setAttribute("aria-label",
      `Cosine of the query patch in ${known.pictures[query.picture].name} with every patch of ${known.pictures[view.picture].name} by ${name}, ${view.value.textContent}`);
  };

  // The query: its crop, in words, and how to choose another.
  const probe = section.querySelector(".probe");
  const crop = make("div", {className: "crop"}, make("i", {className: "square"}));
  crop.setAttribute("role", "img");
  const text = make("p");
  text.setAttribute("aria-live", "polite");
  const own = make("input", {type: "checkbox"});
  own.addEventListener("change", () => {
    stretched = own.checked;
    section.querySelector(".scales .ends").replaceChildren(
      ...(stretched ? ["lowest of the backbone", "highest of the backbone"] : ["0 or less", "0.5", "1"]).map((word) => make("span", {textContent: word})));
    ask();
  });
  probe.append(crop, text, make("label", {className: "small"}, own, " stretch the colours to each backbone's own range"));
  probe.before(make("p", {className: "about", textContent: "Click any picture or map to choose another query patch, or go to a picture with Tab and move the patch with the arrow keys. A ring marks the most similar patch of each picture."}));
  probe.hidden = false;
  section.classList.add("live");

  const finest = (picture) => views.filter((view) => view.picture === picture).reduce((one, other) => (other.count > one.count ? other : one));
  const place = (element, box) => {
    const [left, top, width, height] = box.map((share) => `${100 * share}%`);
    Object.assign(element.style, {left, top, width, height});
  };

  const tell = () => {
    const {name, size: [width, height]} = known.pictures[query.picture];
    const view = finest(query.picture);
    const patch = at(view, query.y, query.x);
    const [row, column] = [Math.floor(patch / view.width), patch % view.width];
    const box = [column / view.width, row / view.height, 1 / view.width, 1 / view.height];
    const side = Math.max(0.25 * Math.min(width, height), 3 * box[2] * width, 3 * box[3] * height);
    const across = Math.min(1, side / width), down = Math.min(1, side / height);
    const left = Math.max(0, Math.min(1 - across, box[0] + box[2] / 2 - across / 2));
    const top = Math.max(0, Math.min(1 - down, box[1] + box[3] / 2 - down / 2));
    crop.className = `crop p${query.picture}`;
    crop.setAttribute("aria-label", `The query patch in ${name}`);
    Object.assign(crop.style, {
      aspectRatio: (across * width) / (down * height),
      backgroundSize: `${100 / across}% ${100 / down}%`,
      backgroundPosition: `${across < 1 ? (100 * left) / (1 - across) : 0}% ${down < 1 ? (100 * top) / (1 - down) : 0}%`,
    });
    place(crop.firstChild, [(box[0] - left) / across, (box[1] - top) / down, box[2] / across, box[3] / down]);
    text.textContent = `Query: row ${row + 1}, column ${column + 1} of ${name}`;
    for (const photo of photos) {
      const here = photo.picture === query.picture;
      photo.square.hidden = !here;
      if (here) place(photo.square, box);
      photo.caption.textContent = here ? "picture, with the query patch" : "picture";
    }
  };

  let asked = false;
  const ask = (next = query) => {
    query = next;
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; tell(); compute(); });
  };

  // Pictures take the focus and the keys; pictures and maps take the pointer.
  const ARROWS = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  const photos = rows.map((row, picture) => {
    const element = row.querySelector(".photo");
    const square = element.querySelector(".square") || element.appendChild(make("i", {className: "square"}));
    const caption = element.nextElementSibling;
    caption.textContent = "picture";
    element.tabIndex = 0;
    element.setAttribute("role", "application");
    element.setAttribute("aria-roledescription", "picture with a query patch");
    element.setAttribute("aria-label", `${known.pictures[picture].name}: Enter chooses its query patch, arrow keys move it`);
    element.addEventListener("keydown", (event) => {
      const arrow = ARROWS[event.key];
      if (!arrow && event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      if (query.picture !== picture || !arrow) {
        const places = known.pictures[picture].queries;
        const next = query.picture === picture ? places.findIndex(([y, x]) => y === query.y && x === query.x) + 1 : 0;
        const [y, x] = places.length ? places[next % places.length] : [0.5, 0.5];
        if (query.picture !== picture || !arrow) ask({picture, y, x});
        return;
      }
      const view = finest(picture);
      const patch = at(view, query.y, query.x);
      const row = Math.max(0, Math.min(view.height - 1, Math.floor(patch / view.width) + arrow[0]));
      const column = Math.max(0, Math.min(view.width - 1, (patch % view.width) + arrow[1]));
      ask({picture, y: (row + 0.5) / view.height, x: (column + 0.5) / view.width});
    });
    return {element, square, caption, picture};
  });

  const share = (event, element) => {
    const box = element.getBoundingClientRect();
    const inside = (value) => Math.max(0, Math.min(1 - 1e-9, value));
    return {y: inside((event.clientY - box.top) / box.height), x: inside((event.clientX - box.left) / box.width)};
  };
  const surfaces = [...photos, ...views.map(({canvas, picture}) => ({element: canvas, picture}))];
  for (const {element, picture} of surfaces) {
    element.addEventListener("click", (event) => ask({picture, ...share(event, element)}));
    element.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse") ask({picture, ...share(event, element)});
      const {y, x} = share(event, element);
      for (const view of views) if (view.picture === picture) view.value.textContent = `here ${words(view.values[at(view, y, x)])}`;
    });
    element.addEventListener("pointerleave", () => {
      for (const view of views) if (view.picture === picture) view.value.textContent = view.best < 0 ? "" : `highest ${words(view.values[view.best])}`;
    });
  }

  const first = known.pictures.findIndex((picture) => picture.queries.length);
  const [y, x] = first < 0 ? [0.5, 0.5] : known.pictures[first].queries[0];
  ask({picture: Math.max(0, first), y, x});
})();
