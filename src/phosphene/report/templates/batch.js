// The pictures of a run in shards: chosen, sorted and looked at; what they are lies in scripts beside this page.
const phosphene = (() => {
  const PAGE = 24, waiting = new Map(), loaded = new Map(), palettes = {};
  const tiles = document.getElementById("tiles"), one = document.getElementById("one"), form = document.querySelector(".choose");
  let columns = null, drawn = 0, place = 0;

  const bytes = text => Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
  for (const [name, text] of Object.entries(told.palettes)) palettes[name] = bytes(text);

  function load(file) {
    if (!waiting.has(file)) waiting.set(file, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "report/" + file;
      script.onload = resolve;
      script.onerror = () => { waiting.delete(file); reject(new Error("report/" + file + " is missing beside this page")); };
      document.head.append(script);
    }));
    return waiting.get(file);
  }

  async function row(number) {
    const file = Math.floor(number / told.rows);
    if (!loaded.has(file)) await load("rows-" + String(file).padStart(5, "0") + ".js");
    return loaded.get(file)[number % told.rows];
  }

  // What is asked for stands in the address, so that every view and every picture has one.
  const asked = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  function ask(changes) {
    const wanted = { ...asked(), ...changes };
    for (const name of Object.keys(wanted)) if (wanted[name] === "" || wanted[name] == null) delete wanted[name];
    location.hash = new URLSearchParams(wanted).toString();
  }

  async function chosen(wanted) {
    if (!wanted.show && !wanted.class && !wanted.by) return null;  // all, in the run's order
    if (!columns) await load("columns.js");
    const letter = { right: "r", wrong: "w", failed: "f" }[wanted.show], name = (wanted.class || "").toLowerCase();
    const fits = new Set(columns.names.flatMap((own, index) => own.toLowerCase() === name ? [index] : []));
    if (name && !fits.size) columns.names.forEach((own, index) => { if (own.toLowerCase().includes(name)) fits.add(index); });
    let found = [];
    for (let number = 0; number < told.count; number++) {
      if (letter && columns.outcomes[number] !== letter) continue;
      const own = columns.true[number] >= 0 ? columns.true[number] : columns.best[number];
      if (name && !fits.has(own)) continue;
      found.push(number);
    }
    const values = columns.values[wanted.by];
    if (values) {
      const sign = wanted.down ? -1 : 1;
      found = found.filter(number => values[number] !== null).sort((a, b) => sign * (values[a] - values[b]) || a - b);
    }
    return found;
  }

  function make(kind, properties = {}, ...children) {
    const element = Object.assign(document.createElement(kind), properties);
    element.append(...children);
    return element;
  }

  function canvas(map) {
    const [height, width] = map.shape, shares = bytes(map.values), colors = palettes[map.display];
    const element = make("canvas", { width, height }), context = element.getContext("2d"), image = context.createImageData(width, height);
    for (let index = 0; index < shares.length; index++) image.data.set(colors.subarray(4 * shares[index], 4 * shares[index] + 4), 4 * index);
    context.putImageData(image, 0, 0);
    return placed(element, map.place);
  }

  function placed(element, [left, top, width, height]) {
    Object.assign(element.style, { left: 100 * left + "%", top: 100 * top + "%", width: 100 * width + "%", height: 100 * height + "%" });
    return element;
  }

  function framed(found, maps, large) {
    const frame = make("span", { className: "frame-of" });
    if (found.picture) {
      const small = "data:image/jpeg;base64," + found.picture, image = make("img", { src: small, alt: "" });
      if (large && found.original) {
        image.onerror = () => { image.onerror = null; image.src = small; };
        image.src = "file://" + found.original.split("/").map(encodeURIComponent).join("/");
      }
      frame.append(image);
    } else {
      const empty = make("div", { className: "empty", textContent: found.error ? "no picture" : "not at hand" });
      if (found.size) empty.style.aspectRatio = found.size[1] + " / " + found.size[0];
      frame.append(empty);
    }
    for (const map of maps) if (map.values) frame.append(canvas(map));
    for (const thing of found.objects) frame.append(placed(make("span", { className: "box", title: thing.label }), thing.box));
    return frame;
  }

  function within(frame, size) {  // as large as a square of the sheet allows
    if (size && size[0] > size[1]) frame.style.width = 100 * size[1] / size[0] + "%";
    return frame;
  }

  const percent = (value, among = []) => value == null ? "-" : [value, ...among].some(one => one < 0 || one > 1.001) ? String(+value.toPrecision(3)) : value >= 0.001 || value === 0 ? (100 * value).toFixed(1) + "\u00a0%" : "<\u00a00.1\u00a0%";
  const short = text => text.length > 90 ? text.slice(0, 90).replace(/\s+\S*$/, "") + " ..." : text;
  const called = found => found.key.split("/").slice(-2).join("/");
  const mark = found => found.correct == null ? "" : make("span", { className: "mark " + (found.correct ? "right" : "wrong"), title: found.correct ? "right" : "wrong" });

  function tile(number, found, value) {
    const best = found.predicted[0], first = found.maps.filter(map => map.values).slice(0, 1);
    const entry = make("a", { className: "entry", href: "#" + new URLSearchParams({ ...asked(), picture: number }), title: found.path },
      make("span", { className: "thumb" }, within(framed(found, first, false), found.size)), make("span", { className: "name" }, mark(found), best ? best[0] : called(found)));
    if (found.error) entry.append(make("span", { className: "problem", textContent: short(found.error) }));
    else entry.append(make("span", { className: "caveat", textContent: value ?? (best ? percent(best[1]) : "") }));
    if (best && first.length && first[0].target && first[0].target !== best[0]) entry.append(make("span", { className: "caveat", textContent: "the map is for " + first[0].target }));
    if (best) entry.append(make("span", { className: "caveat file", },
      ...called(found).split(/(?<=[-._/])/).flatMap(part => [part, document.createElement("wbr")])));
    return entry;
  }

  async function sheet(wanted) {
    const turn = ++drawn, found = await chosen(wanted), count = found ? found.length : told.count;
    const pages = Math.max(1, Math.ceil(count / PAGE)), page = Math.min(pages, Math.max(1, +wanted.page || 1));
    const numbers = Array.from({ length: Math.min(PAGE, count - PAGE * (page - 1)) }, (_, index) => found ? found[PAGE * (page - 1) + index] : PAGE * (page - 1) + index);
    const rows = await Promise.all(numbers.map(row));
    if (turn !== drawn) return;  // something else was asked for meanwhile
    const values = columns && columns.values[wanted.by];
    tiles.replaceChildren(...rows.map((own, index) => tile(numbers[index], own, values ? wanted.by + " " + values[numbers[index]] : null)));
    document.getElementById("told").textContent = count.toLocaleString("en").replaceAll(",", "\u202f") + (count === 1 ? " picture" : " pictures");
    const link = (text, to) => make("a", { textContent: text, href: "#" + new URLSearchParams({ ...wanted, page: to }) });
    document.getElementById("turn").replaceChildren(...(page > 1 ? [link("previous", page - 1)] : []),
      make("span", { textContent: "page " + page + " of " + pages }), ...(page < pages ? [link("next", page + 1)] : []));
  }

  async function single(number) {
    const found = await row(number), wanted = asked(), chosenRows = await chosen(wanted);
    const order = chosenRows ? chosenRows.indexOf(number) : number, total = chosenRows ? chosenRows.length : told.count;
    const at = index => "#" + new URLSearchParams({ ...wanted, picture: chosenRows ? chosenRows[index] : index });
    const { picture, ...without } = wanted;
    const nav = make("nav", { className: "pages" }, ...(order > 0 ? [make("a", { textContent: "previous", href: at(order - 1) })] : []),
      ...(order >= 0 && order < total - 1 ? [make("a", { textContent: "next", href: at(order + 1) })] : []),
      make("a", { textContent: "close", href: "#" + new URLSearchParams(without) }));
    const bars = make("ol", { className: "bars" }, ...found.predicted.map(([label, probability]) => {
      const fill = make("span", { className: "fill" });
      fill.style.width = 100 * Math.min(1, Math.max(0, probability || 0)) + "%";
      return make("li", {}, make("span", { className: "row" }, make("span", { className: "label", textContent: label }), make("span", { className: "value", textContent: percent(probability, found.predicted.map(best => best[1])) })),
        make("span", { className: "track" }, fill));
    }));
    const facts = make("dl", { className: "facts" });
    const tell = (name, value) => { if (value != null && value !== "") facts.append(make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))); };
    tell("path", found.path);
    tell("label", found.label);
    tell("size", found.size && found.size[1] + " x " + found.size[0] + " px");
    for (const [name, value] of Object.entries(found.columns)) tell(name, typeof value === "object" ? JSON.stringify(value) : value);
    for (const thing of found.objects) tell("object", thing.label + " " + percent(thing.probability));
    const maps = found.maps.map(map => {
      const words = [map.target, map.score == null ? "" : "score " + map.score, map.inside == null ? "" : percent(map.inside) + " of the evidence inside the mask, which is " + percent(map.area) + " of what was seen",
        map.low == null ? "" : "colors from " + map.low.toPrecision(3) + " to " + map.high.toPrecision(3)].filter(Boolean);
      return make("figure", { className: "tile" }, framed(found, [map], true), make("figcaption", {}, make("div", { className: "name", textContent: map.method }), ...words.map(text => make("p", { className: "caveat", textContent: text }))));
    });
    const side = make("div", { className: "side" }, framed(found, [], true), bars);
    const body = make("div", { className: "maps" }, ...(found.error ? [make("p", { className: "problem", textContent: found.error })] : []), facts, make("div", { className: "tiles" }, ...maps));
    one.replaceChildren(nav, make("h2", {}, mark(found), called(found)), make("div", { className: "image" }, side, body));
    if (one.hidden) place = scrollY;
    turnTo(true);
    scrollTo(0, 0);
  }

  // A picture is a page of its own; back from it, the sheet is where it was.
  function turnTo(picture) {
    const wasPicture = !one.hidden;
    one.hidden = !picture;
    document.body.classList.toggle("single", picture);
    if (wasPicture && !picture) scrollTo(0, place);
  }

  async function show() {
    const wanted = asked(), { picture, ...rest } = wanted;
    for (const field of form.elements) if (field.name) field.value = wanted[field.name] || "";
    try {
      const key = JSON.stringify(rest);
      if (picture !== undefined) return await single(+picture);
      turnTo(false);
      if (tiles.dataset.shown !== key) { await sheet(rest); tiles.dataset.shown = key; }
    } catch (error) {
      document.getElementById("told").textContent = error.message;
    }
  }

  form.addEventListener("change", () => ask({ show: form.elements.show.value, class: form.elements.class.value, by: form.elements.by.value, down: form.elements.down.value, page: "", picture: "" }));
  form.addEventListener("submit", event => event.preventDefault());
  addEventListener("hashchange", async event => {
    const fromPicture = new URL(event.oldURL).hash.includes("picture=");
    await show();
    if (!asked().picture && !fromPicture) document.getElementById("sheet").scrollIntoView({ block: "nearest" });
  });
  queueMicrotask(show);
  return { rows: (number, found) => loaded.set(number, found), columns: found => { columns = found; } };
})();
