// How the server does, from /stats every two seconds while someone looks.

import { json } from "./api.js";
import { element } from "./markdown.js";

const PERIOD_MS = 2000;
const MOST_POINTS = 150; // five minutes
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

const TARGETS = {
  ttft_p95: "First token, p95", e2e_p95: "Whole answer, p95", inter_token_p95: "Token to token, p95",
  error_rate: "Errors",
  cache_hit_rate: "Prompt cache hits", weights_per_gpu: "Weights per GPU",
};
const LINES = [
  ["Tokens a second", (now) => sum(now, (one) => one.windows["1m"].generated_tokens_per_s), (value) => value.toFixed(0), "over the last minute"],
  ["Requests under way", (now) => sum(now, (one) => one.running), (value) => value.toFixed(0), "being computed"],
  ["Requests waiting", (now) => sum(now, (one) => one.waiting), (value) => value.toFixed(0), "in the queue"],
  ["First token, p95", (now) => worst(now, "ttft_s"), duration, "over the last minute"],
  ["Prompt tokens found in the KV cache", (now) => mean(now, (one) => one.windows["1m"].kv_prefix_hit_rate), percent, "over the last minute"],
  ["KV cache in use", (now) => Math.max(0, ...(now.engines ?? []).map((engine) => engine.kv_cache_usage ?? 0)), percent, "of its blocks"],
];

const history = LINES.map(() => []);
let isShown = false;
let timer;

export function showLive(isLive, askKey) {
  isShown = isLive;
  clearTimeout(timer);
  if (isLive) look(askKey);
}

async function look(askKey) {
  try {
    draw(await json("/stats"));
    $("live-fault").hidden = true;
  } catch (error) {
    if (error.status === 401 && (await askKey(error.message))) return look(askKey);
    if (error.status === 401) isShown = false; // not asked again until someone comes back to this view
    $("live-fault").textContent = `${error.message} The figures below are the last that were seen.`;
    $("live-fault").hidden = false;
  }
  clearTimeout(timer);
  if (isShown) timer = setTimeout(() => look(askKey), PERIOD_MS);
}

function draw(now) {
  $("targets").replaceChildren(...now.targets.map(targetTile));
  $("charts").replaceChildren(...LINES.map((line, index) => chartTile(line, index, now)));
  $("latencies").replaceChildren(latencyTable(now.served));
  const engines = now.engines?.map(engineTile) ?? [];
  $("engines").replaceChildren(...(engines.length ? engines : [nothing(now.triton_error ?? "No engine tells of itself yet.")]));
  const gpus = now.gpus?.map(gpuTile) ?? [];
  $("gpus").replaceChildren(...(gpus.length ? gpus : [nothing("No GPU here.")]));
}

// --- tiles ----------------------------------------------------------------------------------------------------------

function tile(title, value, ...more) {
  return element("div", { class: "tile" }, element("h3", {}, title), element("div", { class: "value" }, value), ...more);
}

function targetTile(target) {
  const format = { seconds: duration, ratio: percent, bytes: gigabytes }[target.unit];
  const verdict = target.holds === null ? "not measured yet" : target.holds ? "✓ held" : "✗ broken";
  const limit = { "<=": "at most", "<": "below", ">=": "at least" }[target.comparison];
  const made = tile(
    TARGETS[target.target] ?? target.target.replaceAll("_", " "),
    target.value === null ? "–" : format(target.value),
    element("small", {}, element("span", { class: "verdict" }, verdict), ` · ${limit} ${format(target.limit)}`),
  );
  if (target.holds !== null) made.classList.add(target.holds ? "holds" : "broken");
  return made;
}

function chartTile([title, read, format, note], index, now) {
  const value = read(now);
  const points = history[index];
  points.push(value);
  if (points.length > MOST_POINTS) points.shift();
  return tile(title, value === null ? "–" : format(value), chart(points, `${title}: ${value === null ? "nothing measured" : format(value)}`), element("small", {}, note));
}

function chart(points, label) {
  const top = Math.max(...points, 1e-9);
  // where nothing was measured the line has a gap
  const at = (value, index) => (value === null ? "" : `${(points[index - 1] ?? null) === null ? "M" : "L"}${(MOST_POINTS - points.length + index).toFixed(1)},${(60 - (56 * value) / top).toFixed(1)}`);
  const made = svg("svg", { viewBox: `0 0 ${MOST_POINTS - 1} 62`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  made.append(svg("path", { class: "ground", d: `M0,60H${MOST_POINTS}` }), svg("path", { d: points.map(at).join("") }));
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function engineTile(engine) {
  const { dtype, placement, device } = engine.info;
  const rate = engine.speculation.acceptance_rate;
  const lines = [
    [device, dtype, placement].filter(Boolean).join(" · "),
    `KV prefix hits ${engine.prefix_cache.hit_rate === null ? "–" : percent(engine.prefix_cache.hit_rate)}`,
    `guesses that stood ${rate === null ? "–" : percent(rate)}`,
    `preemptions ${engine.preemptions}`,
  ];
  return tile(engine.model, `${engine.running} running, ${engine.waiting} waiting`, ...lines.map((line) => element("small", {}, line)));
}

function gpuTile(gpu) {
  const memory = gpu.memory_used_bytes === null ? "–" : `${gigabytes(gpu.memory_used_bytes)} of ${gigabytes(gpu.memory_total_bytes)}`;
  const power = gpu.power_w === null ? "" : ` · ${gpu.power_w.toFixed(0)} W`;
  return tile(gpu.uuid, gpu.utilization === null ? "–" : percent(gpu.utilization), element("small", {}, memory + power));
}

function latencyTable(served) {
  const head = ["Model", "Profile", "Measure", "p50", "p95", "p99", "in 5 minutes"];
  const rows = served.flatMap((one) =>
    [["First token", "ttft_s"], ["Between tokens", "inter_token_s"], ["Whole answer", "e2e_s"]].map(([name, key]) => {
      const spread = one.windows["5m"][key];
      return [one.model, one.profile, name, ...["p50", "p95", "p99"].map((p) => (spread[p] === null ? "–" : duration(spread[p]))), String(spread.count)];
    }),
  );
  const row = (cells, tag) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
  return element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((cells) => row(cells, "td"))));
}

function nothing(text) {
  return element("p", { class: "nothing" }, text);
}

// --- figures --------------------------------------------------------------------------------------------------------

function sum(now, read) {
  return now.served.reduce((total, one) => total + read(one), 0);
}

function worst(now, key) {
  const told = now.served.map((one) => one.windows["1m"][key].p95).filter((value) => value !== null);
  return told.length ? Math.max(...told) : null;
}

function mean(now, read) {
  const told = now.served.map(read).filter((value) => value !== null);
  return told.length ? told.reduce((total, value) => total + value, 0) / told.length : null;
}

function duration(seconds) {
  return seconds < 0.9995 ? `${threeDigits(seconds * 1000)} ms` : `${threeDigits(seconds)} s`;
}

function threeDigits(value) {
  return value < 99.95 ? value.toPrecision(3) : value.toFixed(0);
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function gigabytes(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
