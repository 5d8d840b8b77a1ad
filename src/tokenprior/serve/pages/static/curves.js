// Draws each figure.curve from the table of figures beside it; the table is what there is to know, the curve a view of it.
(() => {
  const made = [];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const tone = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const color = getComputedStyle(probe).color;
    probe.remove();
    return color;
  };
  const number = (text) => (text === undefined || text === "" ? null : Number(text));

  function cells(table, key) {
    return [...table.querySelectorAll("tbody tr")].map((row) => row.querySelector(`[data-key="${key}"]`));
  }

  function whisker(plot, steps, { stroke, high, low }) {
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = stroke;
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.beginPath();
    steps.forEach((step, place) => {
      if (high[place] == null || low[place] == null) return;
      const x = plot.valToPos(step, "x", true), cap = 4 * devicePixelRatio;
      const [top, bottom] = [plot.valToPos(high[place], "y", true), plot.valToPos(low[place], "y", true)];
      ctx.moveTo(x, top);
      ctx.lineTo(x, bottom);
      for (const y of [top, bottom]) { ctx.moveTo(x - cap, y); ctx.lineTo(x + cap, y); }
    });
    ctx.stroke();
    ctx.restore();
  }

  function draw(figure) {
    const table = document.getElementById(figure.dataset.table);
    if (!table || !window.uPlot) return;
    const steps = [...table.querySelectorAll("tbody tr")].map((row) => Number(row.dataset.step));
    const data = [steps];
    const series = [{ label: "step" }];
    const bands = [];
    const whiskers = [];
    const faint = (color) => color.replace("rgb(", "rgba(").replace(")", ", 0.18)");
    for (const part of figure.dataset.series.split("|")) {
      const [key, label, color, form] = part.split(":");
      const found = cells(table, key);
      const stroke = tone(color);
      const at = data.length;
      data.push(found.map((cell) => number(cell?.dataset.value)));
      series.push({
        label, stroke, width: form === "points" ? 0 : 2, spanGaps: true,
        points: { show: form === "points" || steps.length < 40, size: form === "points" ? 9 : 6, fill: stroke },
        value: (_, v) => (v == null ? "–" : figure.dataset.unit === "share" ? `${(v * 100).toFixed(0)}%` : v.toLocaleString(undefined, { maximumFractionDigits: 3 })),
      });
      const edges = [found.map((cell) => number(cell?.dataset.high)), found.map((cell) => number(cell?.dataset.low))];
      if (form === "points" || steps.length < 3) whiskers.push({ stroke, high: edges[0], low: edges[1] });
      else if (found.some((cell) => cell?.dataset.low)) {
        const edge = { stroke: faint(stroke), width: 1, spanGaps: true, points: { show: false } };
        data.push(...edges);
        series.push({ ...edge, label: "to" }, { ...edge, label: "from" });
        bands.push({ series: [at + 1, at + 2], fill: faint(stroke) });
      }
    }
    const holder = figure.querySelector(".canvas") ?? figure.insertBefore(Object.assign(document.createElement("div"), { className: "canvas" }), figure.firstElementChild);
    holder.replaceChildren();
    holder.setAttribute("aria-hidden", "true");
    const axis = { stroke: tone("soft"), grid: { stroke: tone("line"), width: 1 }, ticks: { stroke: tone("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const ends = whiskers.flatMap(({ high, low }) => [...high, ...low]).filter((value) => value !== null);
    const range = (_, least, most) => {
      const low = Math.min(least ?? 0, ...ends), high = Math.max(most ?? 0, ...ends), wide = Math.max(0.1, -low, high) * 1.1;
      if (figure.dataset.unit === "gain") return [-wide, wide];
      return figure.dataset.unit === "count" ? [0, Math.max(1, high * 1.05)] : [Math.min(0, low), Math.max(1, high)];
    };
    // Every so many steps, and the start, which is no step.
    const splits = (_, __, least, most, every) => {
      const at = steps.includes(-1) ? [-1] : [];
      for (let step = Math.max(0, Math.ceil(least / every) * every); step <= most; step += every) at.push(step);
      return at;
    };
    const options = {
      width: Math.max(240, holder.clientWidth || figure.clientWidth - 24), height: 220, legend: { live: false, show: false }, bands, series,
      scales: { x: { time: false, range: (_, low, high) => [low - 0.5, high + 0.5] }, y: { range } },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 50, 100], splits, values: (_, ticks) => ticks.map((tick) => (tick < 0 ? "start" : String(tick))) },
        { ...axis, size: 54, values: (_, ticks) => ticks.map((tick) => (figure.dataset.unit === "share" ? `${Math.round(tick * 100)}%` : Math.abs(tick) >= 10000 ? `${tick / 1000}k` : String(Number(tick.toFixed(3))))) },
      ],
      cursor: { drag: { x: false, y: false } },
      hooks: { draw: [(plot) => whiskers.forEach((one) => whisker(plot, steps, one))] },
    };
    const plot = new uPlot(options, data, holder);
    made.push({ plot, holder, figure });
  }

  function drawAll() {
    while (made.length) made.pop().plot.destroy();
    document.querySelectorAll("figure.curve").forEach(draw);
  }

  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 60); };
  document.addEventListener("DOMContentLoaded", () => {
    drawAll();
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; soon(); } });
  });
  addEventListener("theme", soon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  document.addEventListener("htmx:after:swap", () => { if (document.querySelector("figure.curve:not(:has(canvas))")) soon(); });
})();
