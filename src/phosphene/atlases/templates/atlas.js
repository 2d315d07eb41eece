"use strict";
(() => {
  const root = document.documentElement.dataset.root;
  const byId = (name) => document.getElementById(name);
  const address = (name) => root + name.split("/").map(encodeURIComponent).join("/");
  const typing = (event) => event.target.closest("input, textarea, select");

  // Search: its data come as a script, since a page from disk may not fetch files.
  const input = byId("search"), list = byId("found");
  let entries = null, chosen = -1;

  function load() {
    if (entries !== null) return;
    entries = [];
    window.phospheneSearch = (found) => {
      entries = found.map(([name, what, page, picture]) => ({ name, what, page, picture, folded: `${name} ${what}`.toLowerCase() }));
      show();
    };
    const script = document.createElement("script");
    script.src = `${root}assets/search.js`;
    document.head.append(script);
  }

  function matching(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const rank = (entry) => entry.name.toLowerCase().startsWith(words[0]) ? 0 : entry.name.toLowerCase().includes(words[0]) ? 1 : 2;
    return entries.filter((entry) => words.every((word) => entry.folded.includes(word)))
      .map((entry, place) => [rank(entry), place, entry]).sort((a, b) => a[0] - b[0] || a[1] - b[1])
      .slice(0, 30).map((item) => item[2]);
  }

  function option(entry, number) {
    const item = document.createElement("li");
    item.id = `found-${number}`;
    item.setAttribute("role", "option");
    item.dataset.page = entry.page;
    const picture = document.createElement(entry.picture ? "img" : "span");
    if (entry.picture) { picture.src = address(entry.picture); picture.alt = ""; } else picture.className = "blank";
    const text = document.createElement("span"), name = document.createElement("b"), what = document.createElement("small");
    name.textContent = entry.name;
    what.textContent = entry.what;
    text.append(name, what);
    item.append(picture, text);
    return item;
  }

  function show() {
    const text = input.value.trim();
    chosen = -1;
    input.removeAttribute("aria-activedescendant");
    const open = text !== "" && entries !== null;
    input.setAttribute("aria-expanded", String(open));
    list.hidden = !open;
    if (!open) return;
    const found = matching(text);
    list.replaceChildren(...found.map(option));
    if (!found.length) {
      const nothing = document.createElement("li");
      nothing.className = "nothing";
      nothing.setAttribute("role", "none");
      nothing.textContent = "Nothing of that name";
      list.append(nothing);
    } else choose(0);
  }

  function choose(number) {
    const items = list.querySelectorAll("[role=option]");
    if (!items.length) return;
    chosen = (number + items.length) % items.length;
    items.forEach((item, place) => item.setAttribute("aria-selected", String(place === chosen)));
    items[chosen].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", items[chosen].id);
  }

  function go(item) { if (item && item.dataset.page) location.href = address(item.dataset.page); }

  input.addEventListener("focus", load);
  input.addEventListener("input", () => { load(); show(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      choose(chosen + (event.key === "ArrowDown" ? 1 : -1));
      event.preventDefault();
    } else if (event.key === "Enter") go(list.querySelectorAll("[role=option]")[chosen]);
    else if (event.key === "Escape") { input.value = ""; show(); input.blur(); }
  });
  list.addEventListener("mousedown", (event) => { event.preventDefault(); go(event.target.closest("li")); });
  input.addEventListener("blur", () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event)) return;
    if (event.key === "/") { input.focus(); event.preventDefault(); return; }
    const inSheet = event.target.closest(".cells");
    const turn = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = turn && !inSheet && document.querySelector(`a[rel=${turn}]`);
    if (link) location.href = link.href;
  });

  // Filter of the classes.
  const filter = byId("filter");
  if (filter) {
    const items = [...byId("grid").children];
    filter.addEventListener("input", () => {
      const text = filter.value.trim().toLowerCase();
      let left = 0;
      for (const item of items) {
        item.hidden = !item.dataset.name.includes(text);
        left += item.hidden ? 0 : 1;
      }
      byId("none").hidden = left > 0;
    });
  }

  // Activation atlases.
  for (const cells of document.querySelectorAll(".cells")) {
    cells.style.setProperty("--grid", cells.dataset.grid);
    for (const one of cells.children) {
      one.style.gridRow = Number(one.dataset.row) + 1;
      one.style.gridColumn = Number(one.dataset.column) + 1;
    }
  }
  const sheet = byId("sheet");
  if (sheet) {
    const buttons = [...sheet.querySelectorAll("button")];
    const at = new Map(buttons.map((button) => [`${button.dataset.row},${button.dataset.column}`, button]));
    let current = null, zoom = 1;

    const open = (button, told = true) => {
      if (current) current.removeAttribute("aria-pressed");
      current = button;
      button.setAttribute("aria-pressed", "true");
      for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
      const image = byId("cell-image");
      image.src = button.firstElementChild.src;
      image.alt = button.getAttribute("aria-label");
      image.hidden = byId("cell-facts").hidden = false;
      byId("cell-count").textContent = `${button.dataset.count} place${button.dataset.count === "1" ? "" : "s"}`;
      byId("cell-classes").replaceChildren(...button.dataset.classes.split("\n").filter(Boolean).map((name) => {
        const item = document.createElement("li");
        item.textContent = name;
        return item;
      }));
      byId("cell-places").src = button.dataset.places;
      byId("cell-places").alt = `Places in ${button.dataset.pictures}`;
      byId("cell-pictures").textContent = button.dataset.pictures;
      if (told) history.replaceState(null, "", `#${button.dataset.row}-${button.dataset.column}`);
    };
    sheet.addEventListener("click", (event) => { const button = event.target.closest("button"); if (button) open(button); });
    sheet.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      const from = event.target.closest("button");
      if (!step || !from) return;
      const size = Number(sheet.dataset.grid);
      let row = Number(from.dataset.row), column = Number(from.dataset.column);
      do { row += step[0]; column += step[1]; } while (row >= 0 && column >= 0 && row < size && column < size && !at.has(`${row},${column}`));
      const next = at.get(`${row},${column}`);
      if (next) { open(next); next.focus(); }
      event.preventDefault();
    });
    const scale = (factor) => { zoom = Math.min(4, Math.max(1, zoom * factor)); sheet.style.setProperty("--zoom", zoom); };
    byId("nearer").addEventListener("click", () => scale(1.5));
    byId("farther").addEventListener("click", () => scale(1 / 1.5));
    const asked = at.get(location.hash.slice(1).replace("-", ","));
    const surest = buttons.reduce((one, other) => Number(other.dataset.strength) > Number(one.dataset.strength) ? other : one);
    open(asked || surest, false);
  }
})();
