(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = [];

  // FP8 and INT8 caches are told from FP16 ones by stripes and by a ring, not by colour alone.
  const stripes = (colour) => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.fillStyle = colour;
    pen.globalAlpha = 0.35;
    pen.fillRect(0, 0, 8, 8);
    pen.globalAlpha = 1;
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    for (const x of [-4, 4, 12]) {
      pen.beginPath();
      pen.moveTo(x - 4, 8);
      pen.lineTo(x + 4, 0);
      pen.stroke();
    }
    return pen.createPattern(tile, "repeat");
  };
  const fill = (bar) => (bar.kv === "fp16" ? style("--" + bar.weights) : stripes(style("--" + bar.weights)));
  const rounded = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
  const axis = (title) => ({
    title: { display: true, text: title, color: style("--muted"), font: { size: 12 } },
    ticks: { color: style("--muted"), font: { size: 12 } },
    grid: { color: style("--line"), drawBorder: false },
  });

  const intervals = {
    id: "intervals",
    afterDatasetsDraw(chart, _, options) {
      const pen = chart.ctx;
      pen.save();
      pen.strokeStyle = style("--ink");
      pen.fillStyle = style("--ink");
      pen.font = "12px system-ui, sans-serif";
      pen.textBaseline = "middle";
      options.bars.forEach((bar, i) => {
        const place = chart.getDatasetMeta(0).data[i];
        let end = place.x;
        if (bar.interval) {
          const [low, high] = bar.interval.map((v) => chart.scales.x.getPixelForValue(v));
          pen.lineWidth = 1.5;
          pen.beginPath();
          pen.moveTo(low, place.y);
          pen.lineTo(high, place.y);
          for (const x of [low, high]) {
            pen.moveTo(x, place.y - 4);
            pen.lineTo(x, place.y + 4);
          }
          pen.stroke();
          end = Math.max(end, high);
        }
        pen.fillText(rounded(bar.value), end + 6, place.y + 1);
      });
      pen.restore();
    },
  };

  const gate = {
    id: "gate",
    afterDraw(chart) {
      const x = chart.scales.x.getPixelForValue(data.gate), { top, bottom, right } = chart.chartArea;
      if (!(x <= right)) return;
      const pen = chart.ctx;
      pen.save();
      pen.strokeStyle = pen.fillStyle = style("--muted");
      pen.setLineDash([4, 4]);
      pen.beginPath();
      pen.moveTo(x, top);
      pen.lineTo(x, bottom);
      pen.stroke();
      pen.font = "12px system-ui, sans-serif";
      const before = x + 6 + pen.measureText(data.gate_label).width > right;
      pen.textAlign = before ? "right" : "left";
      pen.fillText(data.gate_label, before ? x - 6 : x + 6, top + 10);
      pen.restore();
    },
  };

  const drawBars = (canvas, figure) => {
    const x = axis(figure.axis);
    x.beginAtZero = true;
    return new Chart(canvas, {
      type: "bar",
      data: {
        labels: figure.bars.map((bar) => bar.label),
        datasets: [{ data: figure.bars.map((bar) => bar.value), backgroundColor: figure.bars.map(fill), borderRadius: 3, maxBarThickness: 28,
                     barPercentage: 0.8, categoryPercentage: 0.9 }],
      },
      options: {
        indexAxis: "y", animation: false, maintainAspectRatio: false,
        layout: { padding: { right: 52 } },  // for the value behind the longest bar
        scales: { x, y: { ticks: { color: style("--ink"), font: { size: 12 }, autoSkip: false },
                          grid: { display: false, drawBorder: false } } },
        plugins: { legend: { display: false }, intervals: { bars: figure.bars },
                   tooltip: { callbacks: { label: (item) => rounded(item.raw) } } },
      },
      plugins: [intervals],
    });
  };

  const drawPoints = (canvas, figure) => {
    const points = figure.bars.filter((bar) => bar.kld !== undefined);
    const x = axis(data.kld_axis), y = axis(figure.axis);
    x.beginAtZero = y.beginAtZero = true;
    x.suggestedMax = data.gate * 1.1;
    const groups = new Map();
    for (const point of points) {
      const key = point.weights + point.kv;
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(point);
    }
    return new Chart(canvas, {
      type: "scatter",
      data: {
        datasets: [...groups.values()].map((list) => ({
          label: list[0].label.split(" · ").slice(-1)[0],
          data: list.map((point) => ({ x: point.kld, y: point.value, label: point.label })),
          pointRadius: 6, pointHoverRadius: 8, borderWidth: 2,
          pointStyle: { fp16: "circle", fp8: "rect", int4_awq: "triangle", int8_sq: "rectRot" }[list[0].weights],
          borderColor: style("--" + list[0].weights),
          backgroundColor: list[0].kv === "fp16" ? style("--" + list[0].weights) : style("--card"),
        })),
      },
      options: {
        animation: false, maintainAspectRatio: false, scales: { x, y },
        plugins: {
          legend: { position: "bottom", labels: { color: style("--ink"), usePointStyle: true, boxWidth: 10, padding: 14, font: { size: 12 } } },
          tooltip: { callbacks: { label: (item) => `${item.raw.label}: ${rounded(item.raw.y)}, ${rounded(item.raw.x)} nats` } },
        },
      },
      plugins: [gate],
    });
  };

  const draw = () => {
    while (charts.length) charts.pop().destroy();
    for (const canvas of document.querySelectorAll("canvas[data-kind]")) {
      const figure = data.figures[Number(canvas.dataset.figure)];
      charts.push((canvas.dataset.kind === "bars" ? drawBars : drawPoints)(canvas, figure));
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => charts.forEach((chart) => chart.resize()));
  addEventListener("afterprint", () => charts.forEach((chart) => chart.resize()));
})();
