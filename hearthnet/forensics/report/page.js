// The page of a case: draws its data where the tables leave places for drawings, and filters the timeline's table.

const found = JSON.parse(document.getElementById("data").textContent);
const ZONE = "UTC"; // as the tables
const MEASURES = [
  ["rss_bytes", "memory", bytes], ["memory_left_bytes", "memory left", bytes], ["disk_free_bytes", "disk free", bytes],
  ["open_files", "open files", number], ["load", "load", number], ["loop_lag_s", "loop lag", (s) => duration(s * 1e3)],
];

function drawWhatHappened(host) {
  const { entries, in_flight: inFlight, runs } = found;
  if (!entries.length) return;
  // A trace in flight that began long before everything else is drawn from the left edge.
  const fromUs = Math.min(...entries.map((entry) => entry.ts_us));
  const ends = entries.map((entry) => entry.ts_us + finite(entry.duration_ms) * 1e3);
  const toUs = Math.max(...ends, ...inFlight.map((trace) => finite(trace.started_us) + trace.age_ms * 1e3));
  timeline(host, { entries, inFlight, fromUs, toUs, runs, zone: ZONE });
}

function drawMinutes(host) {
  const points = found.minutes;
  if (!points.length) return;
  const [fromUs, toUs] = [points[0].ts_us, points.at(-1).ts_us + 60e6];
  bars(host, { points, runs: found.runs, fromUs, toUs, stepS: 60, zone: ZONE });
}

function drawVitals(host) {
  for (const [name, label, words] of MEASURES) {
    const values = found.vitals.map((sample) => sample[name]);
    const known = values.filter((value) => value !== null);
    if (known.length < 2) continue;
    const figure = part(host, "figure");
    const title = part(figure, "figcaption", "", `${label} `);
    part(title, "b", "", `${words(known[0])} → ${words(known.at(-1))}`);
    spark(part(figure, "div"), values, { label, words, times: found.vitals.map((sample) => sample.ts_us) });
  }
}

function drawWaterfalls(host) {
  host.querySelectorAll("details").forEach((details, index) => {
    const { trace, logs } = found.waterfalls[index];
    const told = document.createElement("p");
    const tell = (words) => (told.textContent = words);
    const fields = (span) => printable(JSON.stringify(span.extras ?? {}), 2_000);
    const onSpan = (span) => tell(span ? `${printable(span.name)}: ${fields(span)}` : "");
    const onLog = (log) => tell(log ? `${log.level} ${printable(log.logger)}: ${printable(log.msg)}` : "");
    waterfall(part(details, "div"), { trace, logs }, { onSpan, onLog });
    told.className = "mono told";
    details.append(told);
  });
}

function filterMoments() {
  const box = document.getElementById("filter");
  const rows = [...document.querySelectorAll("#moments tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  box.hidden = false;
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    rows.forEach((row, index) => (row.hidden = !words.every((word) => texts[index].includes(word))));
  });
}

const PLACES = {
  "what-happened": drawWhatHappened, minutes: drawMinutes, vitals: drawVitals, waterfalls: drawWaterfalls,
  filter: filterMoments,
};
for (const [id, fill] of Object.entries(PLACES)) {
  const place = document.getElementById(id);
  if (place) fill(place);
}
