"use strict";
/* What happens in the browser: filters, selection, and the ways between timeline, table and graph.
   A collective is "graph:node" everywhere (Row.key). */
const domino = (() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);
  /* JSON that is compressed in the page, because it is large. */
  const expanded = (packed) => {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
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
  let plot = null, source = null, chosen = null, lit = null, strips = null, line = null;
  const hatches = {};
  let all = null, bands = null, whole = null, at = -1, told = -1;

  const start = async () => {
    const documents = window.Bokeh ? Bokeh.documents : [];
    for (const doc of documents) {
      plot = doc.get_model_by_name("timeline") || plot;
      source = doc.get_model_by_name("spans") || source;
      strips = doc.get_model_by_name("strips") || strips;
      line = doc.get_model_by_name("playhead") || line;
      for (const root of doc.roots()) for (const model of root.references()) {
        if (model.type !== "ColumnDataSource") continue;
        if (model.name === "chosen") chosen = model;
        if (model.name === "lit") lit = model;
        if (model.name === "wait" || model.name === "late") hatches[model.name] = model;
      }
    }
    paintPlots();
    if (!plot) return;
    ({ spans: all, strips: bands } = await expanded(byId("pieces").textContent));
    document.querySelectorAll("[data-filter]").forEach((box) => box.addEventListener("change", filter));
    if (byId("rank")) byId("rank").addEventListener("change", () => { fitRank(); filter(); });
    byId("plot").addEventListener("keydown", keys);
    byId("playhead").addEventListener("input", () => reach(fromSlider()));
    for (const end of ["start", "end"]) plot.x_range.properties[end].change.connect(() => placeSlider());
    addEventListener("resize", () => setTimeout(placeSlider, 100));
    fitRank();
    filter();
    reach(Math.min(...lengths().filter((length) => length > 0)));
    const worst = byId("collective-table")?.dataset.worst;
    if (worst) show(worst);
  };

  const fitRank = () => {
    whole = [0, 1.01 * Math.max(...lengths().filter((length) => length > 0))];
    plot.x_range.setv({ start: whole[0], end: whole[1] });
  };

  const rankNow = () => (byId("rank") ? Number(byId("rank").value) : all.rank[0]);
  const milliseconds = (value) => `${value >= 100 ? value.toFixed(1) : value.toPrecision(3)} ms`;

  // ---- the slider between the two timelines ------------------------------------------------
  const lengths = () => {
    const ends = [];
    all.right.forEach((right, i) => { if (all.rank[i] === rankNow()) ends[all.timeline[i]] = Math.max(ends[all.timeline[i]] ?? 0, right); });
    return ends;
  };

  const workDone = (timeline, time) => {
    let done = 0, total = 0;
    for (let i = 0; i < all.left.length; i++) {
      if (all.rank[i] !== rankNow() || all.timeline[i] !== timeline || all.lane[i] !== "compute" || still(all, i)) continue;
      total += all.right[i] - all.left[i];
      done += Math.max(0, Math.min(all.right[i], time) - all.left[i]);
    }
    return total ? done / total : 1;
  };

  const still = (d, i) => d.kind[i] === "wait" || d.kind[i] === "late";
  const fromSlider = () => {
    const { start, end } = plot.x_range;
    return start + (end - start) * Number(byId("playhead").value) / 1000;
  };

  const reach = (time) => {
    line.location = time;
    placeSlider();
    const ends = lengths();
    if (ends.length < 2) return;
    const part = (n) => (time >= ends[n] - 1e-9 ? "has finished the step" : `has done ${Math.round(100 * workDone(n, time))}% of its work`);
    byId("reached").textContent = `at ${milliseconds(Math.max(0, time))}: ${plot.tags[1]} ${part(0)}, ${plot.tags[2]} ${part(1)}`;
  };

  const placeSlider = () => {
    const view = Bokeh.index.get_by_id(plot.id), box = byId("slider");
    box.hidden = lengths().length < 2 || !view || !plot.tags[0];
    if (box.hidden) return;
    const frame = view.frame, inner = frame.bbox, outer = byId("plot").getBoundingClientRect();
    const canvas = view.canvas_view.el.getBoundingClientRect(), thumb = 16;
    box.style.left = `${canvas.left - outer.left + inner.left - thumb / 2}px`;
    box.style.width = `${inner.width + thumb}px`;
    box.style.top = `${canvas.top - outer.top + frame.y_scale.compute(plot.tags[0]) - 18}px`;
    const { start, end } = plot.x_range;
    byId("playhead").value = 1000 * (line.location - start) / (end - start);
  };

  const filter = () => {
    const off = {};
    document.querySelectorAll("[data-filter]").forEach((box) => {
      if (!box.checked) (off[box.dataset.filter] ||= new Set()).add(box.value);
    });
    const rank = rankNow();
    const kept = [];
    for (let i = 0; i < all.left.length; i++) {
      const hidden = Object.entries(off).some(([field, values]) => values.has(String(all[field][i])));
      if (!hidden && all.rank[i] === rank) kept.push(i);
    }
    const data = {};
    for (const name of Object.keys(all)) data[name] = kept.map((i) => all[name][i]);
    source.data = data;
    for (const [kind, model] of Object.entries(hatches)) {
      model.data = boxes(data.kind.flatMap((value, i) => (value === kind ? [i] : [])));
    }
    const shown = bands.rank.map((value, i) => [value === rank && !off.phase?.has(bands.phase[i]), i]).filter(([yes]) => yes).map(([, i]) => i);
    strips.data = Object.fromEntries(Object.entries(bands).map(([name, values]) => [name, shown.map((i) => values[i])]));
    for (const model of plot.references()) if (model.type === "Label") model.visible = model.tags[0] === rank;
    at = told = -1;
    select([]);
    light([]);
    placeSlider();
  };

  const view = (from, to) => {
    const [least, most] = whole, span = Math.min(to - from, most - least);
    const begin = Math.max(least, Math.min(from, most - span));
    plot.x_range.setv({ start: begin, end: begin + span });
  };

  const boxes = (indices) => {
    const data = { left: [], right: [], bottom: [], top: [] };
    for (const i of indices) for (const name of Object.keys(data)) data[name].push(source.data[name][i]);
    return data;
  };
  const select = (indices) => { chosen.data = boxes(indices); };
  const light = (indices) => { lit.data = boxes(indices); };

  /* What belongs to a piece: of a collective the work that hides it, of a wait its collective. */
  const related = (i) => {
    const d = source.data, found = [];
    for (let k = 0; k < d.left.length; k++) {
      if (d.timeline[k] !== d.timeline[i] || k === i) continue;
      if (d.lane[i] === "wire") {
        const works = d.lane[k] === "compute" && !still(d, k);
        if (works && d.left[k] < d.right[i] && d.left[i] < d.right[k]) found.push(k);
      } else if (still(d, i) && d.lane[k] === "wire" && sameFlight(d, i, k)) found.push(k);
    }
    return found;
  };

  const sameFlight = (d, wait, wire) =>
    d.collective[wait] ? d.collective[wire] === d.collective[wait] && d.slice[wire] === d.slice[wait] && d.phase[wire] === d.phase[wait]
      : d.name[wire] === d.name[wait];

  const hovered = (from) => {
    const found = from.inspected.indices;
    light(found.length ? related(found[0]) : []);
    const wanted = found.length ? found[0] : at;
    if (wanted >= 0 && wanted < source.data.left.length && wanted !== told) describe(wanted);
  };

  const kindOf = (d, i) => {
    if (d.kind[i] === "wait") return "waits for the wire";
    if (d.kind[i] === "late") return "waits for another rank";
    return d.what[i];
  };

  const describe = (i) => {
    const d = source.data, key = d.collective[i];
    told = i;
    const title = element("b", {}, d.name[i]);
    const cut = d.slice[i] < 0 ? "" : `slice ${d.slice[i]}`;
    const time = `from ${milliseconds(d.left[i])}, for ${milliseconds(d.right[i] - d.left[i])}`;
    const hides = d.lane[i] === "wire" ? hiddenText(i) : "";
    const text = ` ${[kindOf(d, i), d.phase[i], cut, time, hides, d.source[i]].filter(Boolean).join("; ")} `;
    const links = [];
    if (still(d, i)) for (const k of related(i).slice(0, 1)) links.push(element("button", { type: "button", onclick: () => choose(k) }, "its collective"), " ");
    if (key && rowOf(key)) links.push(element("button", { type: "button", onclick: () => toRow(key) }, "in the table"), " ");
    if (key && views.length) links.push(element("button", { type: "button", onclick: () => toGraph(key) }, "in the graph"));
    byId("detail").replaceChildren(title, text, ...links);
  };

  const hiddenText = (i) => {
    const d = source.data, spans = related(i).map((k) => [Math.max(d.left[k], d.left[i]), Math.min(d.right[k], d.right[i])]).sort((a, b) => a[0] - b[0]);
    let covered = 0, reached = -Infinity;
    for (const [from, to] of spans) { covered += Math.max(0, to - Math.max(from, reached)); reached = Math.max(reached, to); }
    return `${Math.round(100 * covered / (d.right[i] - d.left[i]))}% hidden`;
  };

  const choose = (i) => {
    at = i;
    select([i]);
    light(related(i));
    describe(i);
  };

  const tapped = (from) => {
    const found = from.inspected.indices;
    if (!found.length) return;
    at = found[0];
    const key = source.data.collective[at];
    select(key ? indicesOf(key) : [at]);
    light(related(at));
    describe(at);
    if (key && rowOf(key)) markRow(rowOf(key));
  };

  /* Selects a collective without moving the page. */
  const show = (key) => {
    const found = indicesOf(key), d = source.data;
    if (rowOf(key)) markRow(rowOf(key));
    if (!found.length) return;
    const last = Math.max(...found.map((i) => d.timeline[i]));
    const flights = found.filter((i) => d.timeline[i] === last && d.lane[i] === "wire");
    const exposed = (i) => related(i).length ? -related(i).length : 0;
    at = flights.sort((a, b) => exposed(b) - exposed(a))[0] ?? found[0];
    select(found);
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
    choose(at);
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
    if (event.target.id === "playhead" && event.key.startsWith("Arrow")) return;
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  };

  // ---- the table ---------------------------------------------------------------------------
  /* Most rows of a large table wait in a template until the timelines are drawn. */
  const waiting = byId("more-rows")?.content;
  const rows = () => [document, waiting].flatMap((part) => Array.from(part?.querySelectorAll("tr[data-key]") ?? []));
  const allRows = () => byId("collective-table")?.tBodies[0].append(waiting);

  const rowOf = (key) => [document, waiting].map((part) => part?.getElementById(`collective-${key.replace(":", "-")}`)).find(Boolean);

  const toRow = (key) => {
    const row = rowOf(key);
    if (!row) return;
    allRows();
    byId("find-collective").value = "";
    byId("status").value = "";
    filterRows();
    markRow(row);
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  };

  const markRow = (row) => rows().forEach((other) => other.classList.toggle("chosen", other === row));

  const sortRows = (button) => {
    const head = button.closest("th"), field = button.dataset.sort;
    const numbers = ["exposed", "before", "wire"].includes(field);
    const down = head.getAttribute("aria-sort") === "none" ? numbers : head.getAttribute("aria-sort") === "ascending";
    document.querySelectorAll("#collective-table th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => (numbers ? a.dataset[field] - b.dataset[field] : a.dataset[field].localeCompare(b.dataset[field], undefined, { numeric: true }));
    byId("collective-table").tBodies[0].append(...rows().sort((a, b) => (down ? order(b, a) : order(a, b))));
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
  const views = stored.views;
  let current = null;

  /* The operations of a view are expanded when they are first needed. */
  const operationsOf = (one) => (one.operations ||= expanded(one.packed));

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

  const counted = (number) => `${number} operation${number === 1 ? "" : "s"}`;

  const groupElement = (group, wanted) => {
    const slices = [...new Set(group.rows.map((row) => row[column.slice]))].sort((a, b) => (a ?? -1) - (b ?? -1));
    const dots = slices.map((slice) => element("span", { class: "dot", style: `background: ${colourOf(slice)}`, title: slice === null ? "whole" : `slice ${slice}` }));
    const events = ["launch", "wait"].map((event) => [event, group.rows.filter((row) => row[column.event] === event).length]).filter(([, n]) => n);
    const count = [counted(group.rows.length), ...events.map(([event, n]) => `${n} ${event}`)].join(", ");
    const inside = element("div", { class: "ops" });
    const made = element("details", {}, element("summary", {}, ...dots, group.name || "(no module)", " ", element("small", {}, count)), inside);
    made.fill = () => { if (!inside.childElementCount) inside.append(...operations(group.rows, wanted)); };
    made.group = group;
    made.addEventListener("toggle", () => { if (made.open) made.fill(); });
    return made;
  };

  const showGraph = async (index) => {
    const one = views[index], choice = byId("graph-choice");
    choice.value = String(index);
    byId("graph-summary").textContent = one.summary;
    try {
      const operations = await operationsOf(one);
      if (choice.value !== String(index)) return; // another one was chosen in the meantime
      current = { ...one, ...operations };
    } catch (error) {
      byId("graph-summary").textContent = `This browser cannot expand the operations (${error}). They are in graphs.json of a dump.`;
      return;
    }
    search();
    byId("graphs").dataset.shown = String(index);
  };

  /* Does something with the graph that is chosen, which it shows first if none was yet. */
  const withGraph = async (act) => {
    if (!current) await showGraph(Number(byId("graph-choice").value));
    if (current) act();
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
      byId(`${side}-count`).textContent = counted(current[side].length);
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

  const toGraph = async (key) => {
    const [number, name] = key.split(":");
    const index = views.findIndex((one) => String(one.number) === number && one.collectives.includes(name));
    if (index < 0) return;
    byId("find-operation").value = "";
    await showGraph(index);
    const has = (list) => list.some((row) => row[column.origin] === name);
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
        if (model.type === "Label" || model.type === "Title") model.setv({ text_color: ink });
        if (model.type === "Span") model.setv({ line_color: ink });
        if (model.type === "GlyphRenderer" && model.name === "lit") model.glyph.setv({ line_color: ink });
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
      if (event.target.dataset.sort) sortRows(event.target);
      const go = event.target.dataset.go, row = event.target.closest("tr");
      if (go === "timeline") toTimeline(row.dataset.key);
      if (go === "graph") toGraph(row.dataset.key);
    });
    filterRows();
  }
  if (byId("graphs")) {
    views.forEach((one, i) => byId("graph-choice").append(element("option", { value: i }, `graph ${one.number}, ${one.phase}`)));
    byId("graph-choice").addEventListener("change", (event) => showGraph(Number(event.target.value)));
    byId("find-operation").addEventListener("input", () => withGraph(search));
    byId("open-all").addEventListener("click", () => withGraph(() => openAll(true)));
    byId("close-all").addEventListener("click", () => withGraph(() => openAll(false)));
    const near = new IntersectionObserver((seen) => {
      if (!seen.some((one) => one.isIntersecting)) return;
      near.disconnect();
      withGraph(() => {});
    }, { rootMargin: "300px" });
    if (views.length) near.observe(byId("graphs"));
  }
  window.addEventListener("load", () => {
    const wait = () => {
      const roots = window.Bokeh ? Bokeh.documents.flatMap((doc) => doc.roots()) : [];
      const wanted = document.querySelectorAll("[data-root-id]").length;
      if (roots.length < wanted) return void setTimeout(wait, 20);
      start().then(() => {
        document.body.dataset.ready = "1";
        (window.requestIdleCallback ?? setTimeout)(allRows);
      });
    };
    wait();
  });

  return { tapped, hovered, toTimeline, toGraph, toRow, get plot() { return plot; }, get source() { return source; }, get chosen() { return chosen; }, get lit() { return lit; }, get line() { return line; }, hatches };
})();
