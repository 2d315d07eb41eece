// Click to enlarge, compare two, filter and sort; the page is whole without it.
const large = document.getElementById("large"), waiting = document.getElementById("waiting");
const shown = large.querySelector(".shown");
let first = null;

function copyOf(figure) {
  const copy = document.createElement("figure");
  const picture = figure.querySelector(".stack, img") ?? figure;
  copy.append(picture.cloneNode(true));
  const image = picture.querySelector?.("img") ?? picture;
  copy.style.setProperty("--ratio", image.naturalWidth / Math.max(1, image.naturalHeight));
  const about = figure.closest(".card")?.querySelector("h2")?.textContent ?? "";
  const name = figure.querySelector?.("figcaption .name")?.firstChild?.textContent ?? image.alt ?? "";
  const text = document.createElement("figcaption");
  text.textContent = [about, name].filter(Boolean).join(": ");
  copy.append(text);
  return copy;
}

function enlarge(figures) {
  shown.replaceChildren(...figures.map(copyOf));
  shown.classList.toggle("two", figures.length > 1);
  if (!large.open) large.showModal();
}

document.querySelector("main").addEventListener("click", event => {
  if (event.target.closest("a, summary, button, input, select")) return;
  const figure = event.target.closest("figure.tile, .enlarge");
  if (!figure || !figure.querySelector("img") && figure.tagName !== "IMG") return;
  enlarge(first && first !== figure ? [first, figure] : [figure]);
  if (first) { first = null; waiting.hidden = true; } else large.dataset.last = "";
  large.last = figure;
});
large.addEventListener("click", event => { if (event.target === large) large.close(); });
document.getElementById("beside").addEventListener("click", () => {
  first = large.last;
  large.close();
  waiting.hidden = false;
});
waiting.querySelector("button").addEventListener("click", () => { first = null; waiting.hidden = true; });

const rows = [...document.querySelectorAll("[data-row]")];
const wanted = document.getElementById("wanted"), order = document.getElementById("order");
const left = document.getElementById("left");
wanted?.addEventListener("input", () => {
  const text = wanted.value.toLowerCase();
  for (const row of rows) row.hidden = !(row.dataset.row + " " + row.textContent).toLowerCase().includes(text);
  left.textContent = text ? rows.filter(row => !row.hidden && !row.matches(".toc *")).length + " shown" : "";
});
order?.addEventListener("change", () => {
  const keys = {
    given: row => Number(row.dataset.place),
    name: row => row.dataset.row.toLowerCase(),
    sure: row => -Number(row.dataset.sure),
    unsure: row => Number(row.dataset.sure),
    failed: row => -Number(row.dataset.failed),
  };
  const key = keys[order.value];
  for (const parent of new Set(rows.map(row => row.parentElement))) {
    const own = rows.filter(row => row.parentElement === parent);
    own.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.dataset.place - b.dataset.place));
    parent.append(...own);
  }
});
