"use strict";
/* What happens in the browser: filters, selection, and the ways between timeline, table and graph.
   A collective is "graph:node" everywhere (Row.key). */
const domino = (() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  const colours = read("colours");
  const colourOf = (slice) => {
    if (slice === null || slice < 0) return colours.whole;
    return colours.slices[slice % colours.slices.length];
  };
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name === "class") made.className = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  // ---- the timeline ------------------------------------------------------------------------
  let plot = null, source = null, chosen = null, all = null, whole = null, at = -1;

  const start = () => {
    const documents = window.Bokeh ? Bokeh.documents : [];
    for (const doc of documents) {
      plot = doc.get_model_by_name("timeline") || plot;
      source = doc.get_model_by_name("spans") || source;
      chosen = doc.get_model_by_name("chosen") || chosen;
    }
    paintPlots();
    if (!plot) return;
    all = {};
    for (const [name, values] of Object.entries(source.data)) all[name] = Array.from(values);
    whole = [plot.x_range.start, plot.x_range.end];
    document.querySelectorAll("[data-filter]").forEach((box) => box.addEventListener("change", filter));
    if (byId("rank")) byId("rank").addEventListener("change", filter);
    byId("plot").addEventListener("keydown", keys);
    filter();
    document.body.dataset.ready = "1";
  };

  const filter = () => {
    const off = {};
    document.querySelectorAll("[data-filter]").forEach((box) => {
      if (!box.checked) (off[box.dataset.filter] ||= new Set()).add(box.value);
    });
    const rank = byId("rank") ? Number(byId("rank").value) : all.rank[0];
    const kept = [];
    for (let i = 0; i < all.left.length; i++) {
      const hidden = Object.entries(off).some(([field, values]) => values.has(String(all[field][i])));
      if (!hidden && all.rank[i] === rank) kept.push(i);
    }
    const data = {};
    for (const name of Object.keys(all)) data[name] = kept.map((i) => all[name][i]);
    source.data = data;
    for (const model of plot.references()) if (model.type === "Label") model.visible = model.tags[0] === rank;
    select([]);
  };

  const view = (from, to) => {
    const [least, most] = whole, span = Math.min(to - from, most - least);
    const begin = Math.max(least, Math.min(from, most - span));
    plot.x_range.setv({ start: begin, end: begin + span });
  };

  const select = (indices) => {
    const data = { left: [], right: [], bottom: [], top: [] };
    for (const i of indices) for (const name of Object.keys(data)) data[name].push(source.data[name][i]);
    chosen.data = data;
  };

  const describe = (i) => {
    const d = source.data, key = d.collective[i];
    const title = element("b", {}, d.name[i]);
    const text = ` ${d.what[i]}; ${d.begin[i].toFixed(1)} us, for ${d.length[i].toFixed(1)} us; ${d.source[i]} `;
    const links = [];
    if (key && rowOf(key)) links.push(element("button", { type: "button", onclick: () => toRow(key) }, "in the table"), " ");
    if (key && views.length) links.push(element("button", { type: "button", onclick: () => toGraph(key) }, "in the graph"));
    byId("detail").replaceChildren(title, text, ...links);
  };

  const tapped = (from) => {
    const found = from.inspected.indices;
    if (!found.length) return;
    at = found[0];
    const key = source.data.collective[at];
    select(key ? indicesOf(key) : [at]);
    describe(at);
  };

  const indicesOf = (key) => {
    const found = [];
    source.data.collective.forEach((value, i) => { if (value === key) found.push(i); });
    return found;
  };

  const toTimeline = (key) => {
    if (!plot) return;
    let found = indicesOf(key);
    if (!found.length) {
      document.querySelectorAll("[data-filter]").forEach((box) => { box.checked = true; });
      filter();
      found = indicesOf(key);
    }
    byId("timeline").scrollIntoView();
    byId("plot").focus({ preventScroll: true });
    if (!found.length) {
      byId("detail").textContent = `${key} is not in the timeline: it was not scheduled.`;
      return;
    }
    select(found);
    const d = source.data;
    const last = Math.max(...found.map((i) => d.timeline[i]));
    const own = found.filter((i) => d.timeline[i] === last);
    at = own.find((i) => d.lane[i] === "wire") ?? own[0];
    const from = Math.min(...own.map((i) => d.left[i])), to = Math.max(...own.map((i) => d.right[i]));
    view(from - 2 * (to - from), to + 2 * (to - from));
    describe(at);
  };

  const step = (direction) => {
    const d = source.data, wires = [];
    d.lane.forEach((lane, i) => { if (lane === "wire") wires.push(i); });
    if (!wires.length) return;
    wires.sort((a, b) => d.timeline[a] - d.timeline[b] || d.left[a] - d.left[b]);
    const place = wires.indexOf(at);
    at = wires[(place < 0 ? (direction > 0 ? 0 : -1) : place + direction + wires.length) % wires.length] ?? wires.at(-1);
    select([at]);
    describe(at);
    const middle = (d.left[at] + d.right[at]) / 2, half = (plot.x_range.end - plot.x_range.start) / 2;
    if (d.left[at] < plot.x_range.start || d.right[at] > plot.x_range.end) view(middle - half, middle + half);
  };

  const keys = (event) => {
    const { start: from, end: to } = plot.x_range, width = to - from, middle = (from + to) / 2;
    const act = {
      ArrowLeft: () => view(from - width / 5, to - width / 5),
      ArrowRight: () => view(from + width / 5, to + width / 5),
      "+": () => view(middle - width / 3, middle + width / 3),
      "=": () => view(middle - width / 3, middle + width / 3),
      "-": () => view(middle - width * 0.75, middle + width * 0.75),
      0: () => view(...whole),
      n: () => step(1),
      p: () => step(-1),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  };

  // ---- the table ---------------------------------------------------------------------------
  const rows = () => Array.from(document.querySelectorAll("#collective-table tbody tr"));

  const rowOf = (key) => byId(`collective-${key.replace(":", "-")}`);

  const toRow = (key) => {
    const row = rowOf(key);
    if (!row) return;
    byId("find-collective").value = "";
    byId("status").value = "";
    filterRows();
    rows().forEach((other) => other.classList.toggle("chosen", other === row));
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  };

  const filterRows = () => {
    const wanted = byId("find-collective").value.toLowerCase(), status = byId("status").value;
    let shown = 0;
    for (const row of rows()) {
      const text = row.textContent.toLowerCase();
      row.hidden = !text.includes(wanted) || (status !== "" && row.dataset.status !== status);
      shown += !row.hidden;
    }
    byId("collective-count").textContent = `${shown} of ${rows().length}`;
  };

  // ---- the graphs --------------------------------------------------------------------------
  const stored = read("graph-data"), column = {};
  stored.columns.forEach((name, i) => { column[name] = i; });
  const views = stored.graphs.flatMap((graph) => graph.phases.map((phase) => ({ ...phase, ...graph })));
  let current = null;

  const blockOf = (module) => {
    const parts = module.split("."), number = parts.findIndex((part) => /^\d+$/.test(part));
    return number > 0 ? parts.slice(0, number + 1).join(".") : parts[0];
  };

  const groupsOf = (list) => {
    const groups = [];
    for (const row of list) {
      const last = groups.at(-1), name = blockOf(row[column.module]);
      if (last && (last.name === name || name === "")) last.rows.push(row);
      else if (last && last.name === "") { last.name = name; last.rows.push(row); }
      else groups.push({ name, rows: [row] });
    }
    return groups;
  };

  const operation = (row, wanted) => {
    const text = [row[column.name], row[column.shape] && `: ${row[column.shape]}`, ` = ${row[column.operation]}(${row[column.inputs].join(", ")})`].join("");
    const made = element("div", { class: `op${row[column.event] ? " event" : ""}`, style: `border-color: ${colourOf(row[column.slice])}` }, text);
    if (row[column.origin]) {
      const key = `${current.number}:${row[column.origin]}`;
      made.dataset.key = key;
      made.append(" ", element("button", { type: "button", onclick: () => toRow(key) }, "table"), " ",
        element("button", { type: "button", onclick: () => toTimeline(key) }, "timeline"));
    }
    if (wanted && matches(row, wanted)) made.classList.add("found");
    return made;
  };

  const operations = (list, wanted) => {
    const made = [];
    let last = "";
    for (const row of list) {
      const place = [row[column.module], row[column.line]].filter(Boolean).join(" | ");
      if (place && place !== last) made.push(element("div", { class: "line" }, `# ${place}`));
      last = place || last;
      made.push(operation(row, wanted));
    }
    return made;
  };

  const matches = (row, wanted) =>
    `${row[column.name]} ${row[column.operation]} ${row[column.shape]} ${row[column.module]} ${row[column.line]}`.toLowerCase().includes(wanted);

  const groupElement = (group, wanted) => {
    const slices = [...new Set(group.rows.map((row) => row[column.slice]))].sort((a, b) => (a ?? -1) - (b ?? -1));
    const dots = slices.map((slice) => element("span", { class: "dot", style: `background: ${colourOf(slice)}`, title: slice === null ? "whole" : `slice ${slice}` }));
    const events = ["launch", "wait"].map((event) => [event, group.rows.filter((row) => row[column.event] === event).length]).filter(([, n]) => n);
    const count = [`${group.rows.length} operations`, ...events.map(([event, n]) => `${n} ${event}`)].join(", ");
    const inside = element("div", { class: "ops" });
    const made = element("details", {}, element("summary", {}, ...dots, group.name || "(no module)", " ", element("small", {}, count)), inside);
    made.fill = () => { if (!inside.childElementCount) inside.append(...operations(group.rows, wanted)); };
    made.group = group;
    made.addEventListener("toggle", () => { if (made.open) made.fill(); });
    return made;
  };

  const showGraph = (index) => {
    current = views[index];
    byId("graph-choice").value = String(index);
    byId("graph-summary").textContent = current.summary;
    search();
  };

  const search = () => {
    const wanted = byId("find-operation").value.trim().toLowerCase();
    let found = 0, opened = 0;
    for (const side of ["before", "after"]) {
      let list = groupsOf(current[side]);
      if (wanted) {
        list = list.map((group) => ({ name: group.name, rows: group.rows.filter((row) => matches(row, wanted)) })).filter((group) => group.rows.length);
      }
      const made = list.map((group) => groupElement(group, wanted));
      byId(side).replaceChildren(...made);
      byId(`${side}-count`).textContent = `${current[side].length} operations`;
      if (wanted) for (const group of made) {
        found += group.group.rows.length;
        if (opened < 40) { opened += 1; group.open = true; group.fill(); }
      }
    }
    byId("operation-count").textContent = wanted ? `${found} found` : "";
  };

  const openAll = (open) => document.querySelectorAll("#graphs details").forEach((group) => {
    if (open) group.fill();
    group.open = open;
  });

  const toGraph = (key) => {
    const [number, name] = key.split(":");
    const has = (list) => list.some((row) => row[column.origin] === name);
    const index = views.findIndex((one) => String(one.number) === number && (has(one.after) || has(one.before)));
    if (index < 0) return;
    byId("find-operation").value = "";
    showGraph(index);
    let first = null;
    for (const group of document.querySelectorAll("#graphs details")) {
      if (!has(group.group.rows)) continue;
      group.fill();
      group.open = true;
      group.querySelectorAll(".op").forEach((one) => {
        const hit = one.dataset.key === key;
        one.classList.toggle("found", hit);
        if (hit && !first && group.closest("#after")) first = one;
      });
    }
    first ||= document.querySelector("#graphs .op.found");
    if (!first) return;
    first.scrollIntoView({ block: "center" });
    first.querySelector("button").focus({ preventScroll: true });
  };

  // ---- light and dark ----------------------------------------------------------------------
  const paintPlots = () => {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    for (const doc of window.Bokeh ? Bokeh.documents : []) {
      for (const root of doc.roots()) for (const model of root.references()) {
        if (model.type === "LinearAxis") model.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: line });
        if (model.type === "Grid") model.setv({ grid_line_color: line });
        if (model.type === "Label") model.setv({ text_color: ink });
        if (model.type === "Legend") model.setv({ label_text_color: ink });
      }
    }
  };

  const toggleTheme = () => {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
    paintPlots();
  };

  // ---- begin -------------------------------------------------------------------------------
  document.querySelectorAll("[data-slice]").forEach((dot) => { dot.style.background = colourOf(Number(dot.dataset.slice)); });
  byId("theme").addEventListener("click", toggleTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintPlots);
  if (byId("collectives")) {
    byId("find-collective").addEventListener("input", filterRows);
    byId("status").addEventListener("change", filterRows);
    byId("collective-table").addEventListener("click", (event) => {
      const go = event.target.dataset.go, row = event.target.closest("tr");
      if (go === "timeline") toTimeline(row.dataset.key);
      if (go === "graph") toGraph(row.dataset.key);
    });
    filterRows();
  }
  if (byId("graphs")) {
    views.forEach((one, i) => byId("graph-choice").append(element("option", { value: i }, `graph ${one.number}, ${one.phase}`)));
    byId("graph-choice").addEventListener("change", (event) => showGraph(Number(event.target.value)));
    byId("find-operation").addEventListener("input", search);
    byId("open-all").addEventListener("click", () => openAll(true));
    byId("close-all").addEventListener("click", () => openAll(false));
    if (views.length) showGraph(0);
  }
  window.addEventListener("load", () => {
    const wait = () => {
      const roots = window.Bokeh ? Bokeh.documents.flatMap((doc) => doc.roots()) : [];
      const wanted = document.querySelectorAll("[data-root-id]").length;
      if (roots.length < wanted) return void setTimeout(wait, 20);
      start();
      document.body.dataset.ready = "1";
    };
    wait();
  });

  return { tapped, toTimeline, toGraph, toRow, get plot() { return plot; }, get source() { return source; }, get chosen() { return chosen; } };
})();
