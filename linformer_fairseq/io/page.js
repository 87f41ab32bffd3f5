"use strict";
// Shows the JSON of a page of page.py. All text goes through textContent, or through `plain` for plotly.
const content = JSON.parse(document.getElementById("content").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const redraw = [];

function make(name, parent, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  parent.append(made);
  return made;
}

// plotly reads some tags in texts, and so loses tokens such as </s>.
function plain(value) {
  if (typeof value === "string") return value.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
}

function shown(value) {
  if (typeof value !== "number") return value ?? "–";
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(5)));
}

// A box for panes side by side, under a title with a mark.
function titled(part, parent) {
  const item = make("div", parent, undefined, "item");
  const title = make("h3", item, part.title + " ");
  if (part.mark) make("mark", title, part.mark);
  return make("div", item, undefined, "panes");
}

const show = {
  note(part, parent) {
    make("p", parent, part.text);
  },
  table(part, parent) {
    const outside = part.fold ? make("details", parent) : parent;
    if (part.fold) make("summary", outside, part.fold);
    const table = make("table", make("div", outside, undefined, "wide"));
    const head = make("tr", make("thead", table));
    const isNumber = part.columns.map((_, i) => part.rows.some((row) => typeof row[i] === "number"));
    part.columns.forEach((name, i) => make("th", head, name, isNumber[i] ? "number" : ""));
    const body = make("tbody", table);
    for (const row of part.rows) {
      const line = make("tr", body, undefined, "item");
      row.forEach((value, i) => make("td", line, shown(value), isNumber[i] ? "number" : ""));
    }
  },
  texts(part, parent) {
    const panes = titled(part, parent);
    for (const pane of part.panes) {
      const box = make("div", panes);
      make("b", box, pane.label);
      for (const [text, marked] of pane.runs) make(marked ? "mark" : "span", box, text);
    }
  },
  pictures(part, parent) {
    const panes = titled(part, parent);
    for (const [label, content] of Object.entries(part.pictures)) {
      const box = make("div", panes);
      make("b", box, label);
      Object.assign(make("img", box), { src: `data:image/png;base64,${content}`, alt: label });
    }
  },
  plot(part, parent) {
    make("h3", parent, part.title);
    const select = make("select", parent);
    part.views.forEach((view, i) => (make("option", select, view.name).value = i));
    select.hidden = part.views.length < 2;
    const box = make("div", parent);
    const draw = () => {
      const view = part.views[Number(select.value)];
      const ink = dark.matches ? "#ddd" : "#222", grid = dark.matches ? "#444" : "#ddd";
      const colours = { automargin: true, gridcolor: grid, zerolinecolor: grid };
      const axis = (own, title) => ({ ...colours, ...own, title: { text: own?.title ?? title } });
      const layout = {
        height: 340, ...part.layout, margin: { t: 30, r: 10, b: 40, l: 50 }, font: { color: ink },
        paper_bgcolor: "transparent", plot_bgcolor: "transparent", modebar: { bgcolor: "transparent" },
        legend: { orientation: "h", y: 1.1, yanchor: "bottom" },
        xaxis: axis(part.layout.xaxis, view.name), yaxis: axis(part.layout.yaxis, ""),
      };
      Plotly.react(box, plain(view.traces), plain(layout), { responsive: true, displaylogo: false });
    };
    select.addEventListener("change", draw);
    redraw.push(draw);
    draw();
  },
};

document.title = content.title;
document.querySelector("h1").textContent = content.title;
for (const section of content.sections) {
  const place = make("section", document.querySelector("main"));
  make("h2", place, section.title);
  if (section.note) make("p", place, section.note);
  for (const part of section.parts) show[part.kind](part, place);
}
dark.addEventListener("change", () => redraw.forEach((draw) => draw()));

document.querySelector("input").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  const items = [...document.querySelectorAll(".item")];
  for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  for (const fold of document.querySelectorAll("details")) fold.open = wanted !== "";
  const found = items.filter((item) => !item.hidden).length;
  document.querySelector("output").textContent = wanted && `${found} of ${items.length}`;
});
document.body.dataset.ready = "yes";
