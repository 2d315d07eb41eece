// What the page does without asking the server: views and addresses, reading maps, the strength of overlays, copying.
(() => {
  "use strict";
  const root = document.documentElement;
  const TABS = ["explain", "locate", "remember", "layer", "compare", "audit"];
  const addresses = {};
  const maps = new Map();
  let strength = 80;
  let place = null; // asked for by the address, once its maps are there

  const params = () => new URLSearchParams(location.search);
  const tab = () => root.dataset.tab || "explain";
  const withStrength = (address) => (strength === 80 ? address : `${address}&strength=${strength}`);

  function show(name, push) {
    root.dataset.tab = TABS.includes(name) ? name : "explain";
    for (const link of document.querySelectorAll("nav a[data-tab]")) {
      if (link.dataset.tab === tab()) {
        link.setAttribute("aria-current", "page");
        link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 40;
      } else link.removeAttribute("aria-current");
    }
    if (push) history.pushState(null, "", withStrength(addresses[tab()] || `?tab=${tab()}`));
  }

  function press(id) {
    const found = document.getElementById(id);
    const button = found && (found.matches("button") ? found : found.querySelector("button"));
    if (button) button.click();
  }

  // The address has settled the controls: show its view, and ask what it asks.
  function opened() {
    const asked = params();
    show(asked.get("tab"));
    const given = Number(asked.get("strength"));
    if (asked.has("strength") && given >= 0 && given <= 100) strengthen(given);
    mark(asked.get("picture"));
    const at = (asked.get("at") || "").split("x").map(Number);
    place = tab() === "explain" && at.length === 2 && at.every((share) => share >= 0 && share <= 1) ? at : null;
    const wanted = tab() === "remember" ? asked.has("classes") : tab() === "audit" || asked.has("picture");
    if (wanted) press(`run-${tab()}`);
  }

  // Another picture: ask again where one picture is looked at.
  function changed() {
    const name = document.querySelector("#example textarea, #example input");
    mark(name ? name.value : "");
    if (["explain", "locate", "compare"].includes(tab())) press(`run-${tab()}`);
  }

  function mark(name) {
    for (const button of document.querySelectorAll("[data-example]"))
      button.setAttribute("aria-pressed", String(button.dataset.example === name));
  }

  function said(element) {
    const found = element.querySelector("[data-address]");
    if (!found) return;
    const own = new URLSearchParams(found.dataset.address).get("tab") || "explain";
    addresses[own] = found.dataset.address;
    if (own === tab()) history.replaceState(null, "", withStrength(found.dataset.address));
  }

  function drawn(element) {
    strengthen(strength);
    if (place && element.querySelector(".stack[data-npy]") && !element.querySelector(".breathing")) {
      const stack = element.querySelector(".stack[data-npy]");
      const [x, y] = place;
      place = null;
      ask(stack, x, y);
    }
  }

  function strengthen(value) {
    strength = value;
    root.style.setProperty("--strength", value / 100);
    for (const slider of document.querySelectorAll("[data-strength]")) {
      slider.value = value;
      slider.closest(".strength").querySelector("output").textContent = `${value} %`;
    }
  }

  // The raw map behind a picture, as NumPy wrote it.
  async function load(url) {
    const buffer = await (await fetch(url)).arrayBuffer();
    const length = new DataView(buffer).getUint16(8, true);
    const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, 10, length));
    const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((part) => part.trim()).map(Number);
    const kind = header.match(/'descr': '([^']*)'/)[1];
    const body = buffer.slice(10 + length);
    return { shape, values: kind === "<f8" ? new Float64Array(body) : new Float32Array(body) };
  }

  // The value at a place of the picture (shares of its width and height): bilinear between the cells of the map.
  function valueAt(map, reading, x, y) {
    const { offset, stride, scaled, crop } = reading;
    const py = y * scaled[0] - crop[0], px = x * scaled[1] - crop[1];
    if (py < 0 || px < 0 || py >= crop[2] || px >= crop[3]) return null;
    const [rows, columns] = map.shape;
    const row = Math.min(Math.max((py - offset[0]) / stride[0], 0), rows - 1);
    const column = Math.min(Math.max((px - offset[1]) / stride[1], 0), columns - 1);
    const r = Math.min(Math.floor(row), Math.max(rows - 2, 0)), c = Math.min(Math.floor(column), Math.max(columns - 2, 0));
    const at = (i, j) => map.values[Math.min(i, rows - 1) * columns + Math.min(j, columns - 1)];
    const upper = at(r, c) + (at(r, c + 1) - at(r, c)) * (column - c);
    const lower = at(r + 1, c) + (at(r + 1, c + 1) - at(r + 1, c)) * (column - c);
    return upper + (lower - upper) * (row - r);
  }

  async function readOut(stack, x, y) {
    const output = stack.closest(".tile").querySelector("output.value");
    const cross = stack.querySelector(".cross");
    stack.dataset.x = x;
    stack.dataset.y = y;
    cross.hidden = false;
    cross.style.left = `${100 * x}%`;
    cross.style.top = `${100 * y}%`;
    if (!maps.has(stack.dataset.npy)) {
      if (maps.size > 40) maps.clear();
      maps.set(stack.dataset.npy, load(stack.dataset.npy));
    }
    const map = await maps.get(stack.dataset.npy).catch(() => null);
    if (!map || !output || Number(stack.dataset.x) !== x) return;
    const reading = JSON.parse(stack.dataset.reading);
    const value = valueAt(map, reading, x, y);
    output.textContent = value === null ? "not seen" : value.toPrecision(3);
    output.title = `at ${Math.round(x * reading.original[1])}, ${Math.round(y * reading.original[0])}`;
  }

  function ask(stack, x, y) {
    readOut(stack, x, y);
    const answer = stack.closest("#answer-explain");
    if (answer) send(answer, "place", { x, y });
  }

  // Gradio listens on the element that js_on_load was given; the event bubbles up to it.
  const send = (inside, name, detail) =>
    (inside.querySelector(".answer") || inside.firstElementChild || inside).dispatchEvent(new CustomEvent(name, { detail, bubbles: true }));

  const placeIn = (stack, event) => {
    const frame = stack.getBoundingClientRect();
    const within = (share) => Math.min(Math.max(share, 0), 0.9999);
    return [within((event.clientX - frame.left) / frame.width), within((event.clientY - frame.top) / frame.height)];
  };

  document.addEventListener("pointermove", (event) => {
    const stack = event.target.closest?.(".stack[data-npy]");
    if (stack && event.pointerType !== "touch") readOut(stack, ...placeIn(stack, event));
  });
  document.addEventListener("pointerout", (event) => {
    const stack = event.target.closest?.(".stack[data-npy]");
    if (stack && !stack.contains(event.relatedTarget) && document.activeElement !== stack) stack.querySelector(".cross").hidden = true;
  });

  document.addEventListener("click", (event) => {
    const target = event.target;
    const link = target.closest?.("nav a[data-tab]");
    if (link && !event.metaKey && !event.ctrlKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      show(link.dataset.tab, true);
      if (tab() === "audit" && !document.querySelector("#answer-audit .answer")) press("run-audit");
      return;
    }
    const stack = target.closest?.(".stack[data-npy]");
    if (stack) return ask(stack, ...placeIn(stack, event));
    const example = target.closest?.("[data-example]");
    if (example) {
      mark(example.dataset.example);
      return void example.dispatchEvent(new CustomEvent("pick", { detail: { name: example.dataset.example }, bubbles: true }));
    }
    const chosen = target.closest?.("[data-class]");
    if (chosen) return void chosen.dispatchEvent(new CustomEvent("choose", { detail: { index: chosen.dataset.class }, bubbles: true }));
    const turn = target.closest?.("[data-turn]");
    if (turn) return void turn.dispatchEvent(new CustomEvent("turn", { detail: { page: Number(turn.dataset.turn) }, bubbles: true }));
    if (target.closest?.("[data-dusk]")) {
      const dark = document.body.classList.toggle("dark");
      localStorage.setItem("phosphene-dark", dark ? "1" : "0");
      return;
    }
    const copy = target.closest?.("[data-copy]");
    if (copy) {
      navigator.clipboard?.writeText(copy.parentElement.querySelector("pre").textContent).then(() => {
        copy.textContent = "Copied";
        setTimeout(() => (copy.textContent = "Copy"), 1500);
      });
    }
  });

  document.addEventListener("keydown", (event) => {
    const stack = event.target.closest?.(".stack[data-npy]");
    if (!stack) return;
    const x = Number(stack.dataset.x ?? 0.5), y = Number(stack.dataset.y ?? 0.5), step = event.shiftKey ? 0.1 : 0.02;
    const moved = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (moved) {
      event.preventDefault();
      const within = (share) => Math.min(Math.max(share, 0), 0.9999);
      readOut(stack, within(x + moved[0]), within(y + moved[1]));
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      ask(stack, x, y);
    }
  });

  document.addEventListener("input", (event) => {
    if (event.target.matches?.("[data-strength]")) {
      strengthen(Number(event.target.value));
      const own = addresses[tab()] || location.search.replace(/&strength=\d+/, "") || `?tab=${tab()}`;
      history.replaceState(null, "", withStrength(own));
    }
  });

  // What is typed into a list that one searches takes the place of what was chosen.
  const searched = (target) => target.matches?.(".form input[role='listbox'], .form input[role='combobox']");
  let entered = null;
  document.addEventListener("focusin", (event) => {
    if (searched(event.target)) {
      entered = event.target;
      event.target.select();
    }
  });
  document.addEventListener("pointerup", (event) => {
    if (event.target === entered) setTimeout(() => event.target.select(), 0);
    entered = null;
  });

  addEventListener("popstate", () => show(params().get("tab")));

  const dusk = () => {
    const wanted = localStorage.getItem("phosphene-dark");
    if (wanted !== null) document.body.classList.toggle("dark", wanted === "1");
  };
  show(params().get("tab"));
  addEventListener("DOMContentLoaded", () => setTimeout(dusk, 0));

  window.phosphene = { opened, changed, said, drawn, press, show, dusk, valueAt };
})();
