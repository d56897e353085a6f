// The page at /: asks /status for counts that only grow, and shows what they grew by.

const EVERY_MS = 1000, EVERY_MANY_MS = 2000, MANY = 50, ANSWER_MS_MAX = 5000, AGAIN_MS_MAX = 5000;
const RATES_S = 5, SHAPES_S = 10, ERRORS_S = 60; // how far back each kind of figure looks
const GONE_S = 20; // a gateway not heard of for so long is no longer shown
const POINTS = 120;
const TOKENS = 64, MANY_TEXTS = 32; // what fitted times are told for
const WORST_FIRST = ["down", "different", "starting", "trial", "up"];
const WORDS = { up: "up", trial: "on trial", starting: "starting", down: "down", different: "other vectors" };
const TONES = { up: "good", trial: "warn", starting: "none", down: "bad", different: "warn" };

const $ = (id) => document.getElementById(id);
const sum = (values) => values.reduce((all, value) => all + value, 0);
const grown = (now, then) => Math.max(0, now - (then ?? 0));
const grownBy = (now, then) => now.map((count, i) => grown(count, then?.[i]));
const total = (counts) => sum(Object.values(counts));
const add = (to, more) => more.forEach((value, i) => { to[i] = (to[i] ?? 0) + value; });

// Samples

/** What one gateway has told of itself. Several may stand behind one address, and take turns in answering. */
class Gateway {
  samples = []; // oldest first

  get last() { return this.samples.at(-1); }

  take(body, at) {
    const servers = new Map();
    for (const model of body.models)
      for (const server of model.deployments) servers.set(`${model.model}\n${server.name}`, server);
    const models = new Map(body.models.map((model) => [model.model, model]));
    const samples = this.samples;
    samples.push({ at, wall: new Date().toLocaleTimeString(), time: body.gateway.time_s, body, models, servers });
    while (samples.length > 2 && samples[1].time <= this.last.time - ERRORS_S) samples.shift();
    // What is older than the short windows is needed only every few seconds.
    const thin = samples.findIndex(({ time }, i) => i > 0 && time < this.last.time - SHAPES_S - 2
      && samples[i + 1].time - samples[i - 1].time < RATES_S);
    if (thin > 0) samples.splice(thin, 1);
  }

  /** The newest sample that is at least `seconds` older than the last, else the oldest. */
  before(seconds) {
    return this.samples.findLast(({ time }) => time <= this.last.time - seconds) ?? this.samples[0];
  }
}

/** Everything that is shown, summed over the gateways. Rates are null until there are two samples. */
function summed(gateways) {
  const all = {
    known: gateways.some(({ samples }) => samples.length > 1), calls: 0, items: 0, inFlight: 0, queued: 0, statuses: {},
    seconds: [], batches: [], batchItems: 0, batchCount: 0, models: new Map(), untold: {}, bounds: {}, ready: false, draining: false,
  };
  for (const gateway of gateways) {
    const { body, time } = gateway.last;
    const near = gateway.before(RATES_S), middle = gateway.before(SHAPES_S), far = gateway.before(ERRORS_S);
    const rate = (now, then) => (time > near.time ? grown(now, then) / (time - near.time) : 0);
    all.bounds = body.bounds;
    all.ready ||= body.ready;
    all.draining ||= body.gateway.draining;
    Object.assign(all.untold, body.not_answered);
    all.calls += rate(total(body.requests.statuses), total(near.body.requests.statuses));
    add(all.seconds, grownBy(body.requests.seconds.counts, middle.body.requests.seconds.counts));
    for (const [status, count] of Object.entries(body.requests.statuses))
      all.statuses[status] = (all.statuses[status] ?? 0) + grown(count, far.body.requests.statuses[status]);
    for (const told of body.models) {
      const model = all.models.get(told.model)
        ?? { name: told.model, calls: 0, items: 0, waits: [], queued: 0, inFlight: 0, servers: new Map() };
      all.models.set(told.model, model);
      const queued = total(told.queued_items);
      const items = rate(told.items, near.models.get(told.model)?.items);
      model.calls += rate(told.calls, near.models.get(told.model)?.calls);
      model.items += items;
      model.queued += queued;
      model.inFlight += told.in_flight_requests;
      add(model.waits, grownBy(told.queue_seconds.counts, middle.models.get(told.model)?.queue_seconds.counts));
      all.items += items;
      all.queued += queued;
      all.inFlight += told.in_flight_requests;
      for (const server of told.deployments) {
        const key = `${told.model}\n${server.name}`;
        const then = near.servers.get(key), earlier = middle.servers.get(key), long = far.servers.get(key);
        const row = model.servers.get(server.name) ?? {
          key, name: server.name, state: "up", why: "", breaker: "", at: 0, gateways: 0, busy: 0, items: 0, batches: 0, limit: 0,
          others: 0, rate: 0, batchRate: 0, batchItems: 0, batchCount: 0, seconds: [], errors: 0, reasons: {}, fitted: null,
        };
        model.servers.set(server.name, row);
        const state = server.state === "up" && server.breaker === "half_open" ? "trial" : server.state;
        row.gateways += 1;
        row.at = state === row.state ? row.at + 1 : row.at;
        if (WORST_FIRST.indexOf(state) < WORST_FIRST.indexOf(row.state)) Object.assign(row, { state, at: 1 });
        if (state === row.state) Object.assign(row, { why: server.why, breaker: server.breaker });
        row.busy = Math.max(row.busy, server.busy_ratio);
        row.items += server.in_flight_items;
        row.batches += server.in_flight_batches;
        row.limit += server.limit;
        row.others = Math.max(row.others, server.requests_of_others);
        const sent = rate(total(server.batches), then && total(then.batches));
        const answered = rate(server.batches.success ?? 0, then?.batches.success);
        row.batchRate += answered;
        row.rate += sent ? (rate(server.batch_items.sum, then?.batch_items.sum) * answered) / sent : 0;
        const sizes = grownBy(server.batch_items.counts, earlier?.batch_items.counts);
        const inBatches = grown(server.batch_items.sum, earlier?.batch_items.sum);
        row.batchItems += inBatches;
        row.batchCount += sum(sizes);
        all.batchItems += inBatches;
        all.batchCount += sum(sizes);
        add(all.batches, sizes);
        add(row.seconds, grownBy(server.batch_seconds.counts, earlier?.batch_seconds.counts));
        for (const [outcome, count] of Object.entries(server.batches)) {
          const failed = outcome === "success" ? 0 : grown(count, long?.batches[outcome]);
          if (failed) row.reasons[outcome] = (row.reasons[outcome] ?? 0) + failed;
          row.errors += failed;
        }
        if (server.batches.success) row.fitted = server.service_seconds;
      }
    }
  }
  return all;
}

/** The q-quantile of a histogram, taking what is in a bucket as evenly spread; null without values. */
function quantile(bounds, counts, q) {
  let left = q * sum(counts);
  if (!left) return null;
  for (const [i, count] of counts.entries()) {
    if (left <= count && i < bounds.length) return (bounds[i - 1] ?? 0) + (bounds[i] - (bounds[i - 1] ?? 0)) * (left / count);
    left -= count;
  }
  return Infinity;
}

// Words

const number = (value) => {
  if (value === null || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  if (value >= 1e5) return `${(value / 1e3).toLocaleString("en", { maximumFractionDigits: 0 })}k`;
  return value.toLocaleString("en", value < 10 ? { maximumFractionDigits: 1, minimumFractionDigits: Number.isInteger(value) ? 0 : 1 }
    : { maximumFractionDigits: 0 });
};
const whole = (value) => value.toLocaleString("en");
const time = (seconds, bounds = []) => {
  if (seconds === null) return "–";
  if (seconds === Infinity) return `> ${time(bounds.at(-1))}`;
  const ms = seconds * 1000;
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
};
const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const listed = (counts) => Object.entries(counts).map(([what, n]) => `${what.replaceAll("_", " ")} ×\u00a0${whole(n)}`).join(", ");

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function tone(element, name) {
  if (element.dataset.tone !== name) element.dataset.tone = name;
}
function draw(path, shape) {
  if (path.getAttribute("d") !== shape) path.setAttribute("d", shape);
}

// Lines

const lines = new Map(); // by id or server: the values of the last two minutes

function line(key, svg, value, least, from) {
  const values = lines.get(key) ?? [];
  lines.set(key, values);
  values.push(value);
  if (values.length > POINTS) values.shift();
  const top = Math.max(least, ...values) * 1.1;
  const points = values.slice(-from).map((each, i, shown) =>
    `${(120 - ((shown.length - 1 - i) * 120) / (from - 1)).toFixed(1)},${(29 - (28 * each) / top).toFixed(1)}`);
  const drawn = points.length > 1 ? `M${points.join("L")}` : "";
  draw(svg.querySelector(".stroke"), drawn);
  const area = svg.querySelector(".area");
  if (area) draw(area, drawn && `${drawn}L120,30L${points[0].split(",")[0]},30Z`);
}

function bars(svg, counts) {
  const last = Math.max(8, counts.findLastIndex((each) => each > 0) + 1);
  const step = 120 / last, top = Math.max(1, ...counts);
  draw(svg.firstElementChild, counts.slice(0, last).map((each, i) => {
    const height = each && Math.max(1.5, (28 * each) / top);
    return each ? `M${(i * step + step * 0.12).toFixed(1)},30v${(-height).toFixed(1)}h${(step * 0.76).toFixed(1)}v${height.toFixed(1)}z` : "";
  }).join(""));
}

// The board

const sections = new Map(), rows = new Map(); // by model; by model and server

function clone(id) {
  const made = $(id).content.firstElementChild.cloneNode(true);
  const parts = Object.fromEntries([...made.querySelectorAll("[data-of]")].map((each) => [each.dataset.of, each]));
  return { made, parts, svg: made.querySelector("svg"), meter: made.querySelector(".meter i") };
}

function showTiles(all) {
  const { seconds, items } = all.bounds;
  const p = (q) => quantile(seconds, all.seconds, q);
  say($("calls"), all.known ? number(all.calls) : "–");
  say($("calls-note"), `in flight: ${whole(all.inFlight)}`);
  say($("items"), all.known ? number(all.items) : "–");
  for (const [id, q] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]]) {
    const [, figure, unit] = /^(.*?)( m?s)?$/.exec(time(p(q), seconds));
    say($(id), figure);
    say($(id).nextElementSibling, unit ?? "");
  }
  say($("batch"), number(all.batchCount ? all.batchItems / all.batchCount : null));
  const size = (q) => number(Math.ceil(quantile(items, all.batches, q)));
  say($("batch-note"), all.batchCount ? `p50 ${size(0.5)} · p95 ${size(0.95)}` : "no batches now");
  bars($("batch-bars"), all.batches);
  say($("queue"), whole(all.queued));
  say($("queue-note"), all.queued ? "wait for a server" : "nothing waits");
  const failed = Object.fromEntries(Object.entries(all.statuses).filter(([status, n]) => status >= 400 && n));
  const ours = Object.keys(failed).some((status) => status >= 500 || status === "429");
  say($("errors"), whole(total(failed)));
  say($("errors-note"), listed(failed) || "none");
  tone($("errors-note"), ours ? "bad" : "");
  if (!ours) delete $("errors-note").dataset.tone;
  if (!all.known) return;
  line("calls", $("calls-line"), all.calls, 1, POINTS);
  line("items", $("items-line"), all.items, 1, POINTS);
  line("latency", $("latency-line"), Math.min(p(0.95) ?? 0, 60), 0.001, POINTS);
  line("queue", $("queue-line"), all.queued, 1, POINTS);
  line("errors", $("errors-line"), total(failed), 1, POINTS);
}

function showRow(server, { bounds, known }) {
  const row = rows.get(server.key) ?? clone("server");
  rows.set(server.key, row);
  const { parts } = row;
  say(parts.name, server.name);
  say(parts.why, reason(server));
  say(parts.state, WORDS[server.state] ?? server.state);
  tone(parts.state, TONES[server.state] ?? "none");
  say(parts.breaker, `breaker ${server.breaker.replace("_", " ")}`);
  say(parts.busy, `${(100 * server.busy).toFixed(0)} %`);
  row.meter.style.setProperty("--part", server.busy.toFixed(2));
  say(parts.items, whole(server.items));
  const others = server.others >= 0.05 ? `, of others ${number(server.others)}` : "";
  say(parts.batches, `batches ${whole(server.batches)}/${whole(server.limit)}${others}`);
  say(parts.rate, number(server.rate));
  if (known) line(server.key, row.svg, server.rate, 1, POINTS / 2);
  say(parts.batch, number(server.batchCount ? server.batchItems / server.batchCount : null));
  say(parts.batchRate, `${number(server.batchRate)} batches/s`);
  say(parts.median, time(quantile(bounds.seconds, server.seconds, 0.5), bounds.seconds));
  const slow = quantile(bounds.seconds, server.seconds, 0.95);
  say(parts.slow, slow === null ? "" : `p95 ${time(slow, bounds.seconds)}`);
  const fitted = (texts) => {
    const { l, o, a, b } = server.fitted;
    return l + o + a * texts + b * texts * TOKENS;
  };
  say(parts.one, server.fitted ? time(fitted(1)) : "–");
  say(parts.many, server.fitted ? `${MANY_TEXTS}: ${time(fitted(MANY_TEXTS))}` : "");
  say(parts.errors, whole(server.errors));
  say(parts.reasons, listed(server.reasons));
  row.made.classList.toggle("flawless", !server.errors);
  return row.made;
}

function reason(server) {
  if (server.state === "up" || server.state === "trial") return "";
  return server.at < server.gateways ? `at ${server.at} of ${server.gateways} gateways: ${server.why}` : server.why;
}

/** Have the children of `parent` be `wanted`, in that order, moving none that stands right. */
function arrange(parent, wanted) {
  wanted.forEach((each, i) => {
    if (parent.children[i] !== each) parent.insertBefore(each, parent.children[i] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

function showModels(all) {
  const known = new Set();
  arrange($("models"), [...all.models.values()].map((model) => {
    const section = sections.get(model.name) ?? clone("model");
    sections.set(model.name, section);
    const servers = [...model.servers.values()];
    const up = servers.filter(({ state }) => state === "up" || state === "trial").length;
    say(section.parts.name, model.name);
    const table = section.made.querySelector("table");
    if (!table.ariaLabel) table.ariaLabel = `Servers of ${model.name}`;
    const wait = quantile(all.bounds.seconds, model.waits, 0.5);
    const facts = [`${up} of ${count(servers.length, "server")} up`, `${number(model.calls)} calls/s`, `${number(model.items)} items/s`];
    if (model.queued) facts.push(`${count(model.queued, "item")} waiting`);
    if (wait !== null) facts.push(`wait for a server ${time(wait, all.bounds.seconds)}`);
    say(section.parts.facts, facts.join(" · "));
    arrange(section.made.querySelector("tbody"), servers.map((server) => {
      known.add(server.key);
      return showRow(server, all);
    }));
    return section.made;
  }));
  for (const key of rows.keys()) if (!known.has(key)) { rows.delete(key); lines.delete(key); }
  for (const name of sections.keys()) if (!all.models.has(name)) sections.delete(name);
}

const SHOWN_MAX = 6;

function showAttention(all, troubled) {
  const untold = Object.entries(all.untold).map(([name, why]) => ({ name, model: "", state: "starting", why, at: 1, gateways: 1 }));
  const alike = new Map(); // a server that serves several models is one trouble
  for (const server of [...troubled, ...untold]) {
    const why = reason(server), id = [server.name, server.state, why].join("\n");
    const { models = [] } = alike.get(id) ?? {};
    alike.set(id, { ...server, why, models: [...models, server.model].filter(Boolean) });
  }
  const found = [...alike.values()];
  $("attention").hidden = !found.length;
  const list = $("attention").querySelector("ul");
  arrange(list, found.slice(0, SHOWN_MAX).map((server, i) => {
    const item = list.children[i] ?? document.createElement("li");
    if (!item.children.length) item.append(document.createElement("b"), document.createElement("small"));
    const [name, why] = item.children;
    tone(name, TONES[server.state]);
    say(name, `${server.name} ${WORDS[server.state]}`);
    say(why, [server.models.join(", "), server.why].filter(Boolean).join(": "));
    return item;
  }));
  const more = $("attention").querySelector("p");
  more.hidden = found.length <= SHOWN_MAX;
  say(more, `and ${whole(found.length - SHOWN_MAX)} more`);
}

function show(gateways) {
  const all = summed(gateways);
  const servers = [...all.models.values()].flatMap(({ name, servers }) =>
    [...servers.values()].map((server) => ({ ...server, model: name })));
  const troubled = servers.filter(({ state }) => state !== "up" && state !== "trial")
    .sort((a, b) => WORST_FIRST.indexOf(a.state) - WORST_FIRST.indexOf(b.state));
  $("board").hidden = false;
  document.body.classList.remove("stale");
  showTiles(all);
  showModels(all);
  showAttention(all, troubled);
  $("empty").hidden = servers.length > 0;
  const asked = Object.keys(all.untold).length;
  say($("empty-text"), asked
    ? `${count(asked, "server")} ${asked === 1 ? "is" : "are"} asked for models until there is an answer; a server that loads its model takes its time.`
    : "None is configured: name them in INFINITY_API_BASE or in the file of the configuration.");

  const names = new Set(servers.map(({ name }) => name)), not = new Set(troubled.map(({ name }) => name));
  const standing = `${names.size - not.size} of ${count(names.size, "server")} up`;
  const dead = [...all.models.values()].find((model) => model.servers.size
    && [...model.servers.values()].every(({ state }) => state !== "up" && state !== "trial"));
  if (all.draining) announce("warn", `Draining, ${standing}`);
  else if (!all.ready) announce("none", "Starting: no server has answered yet, or not for every model");
  else if (dead) announce("bad", `No server of ${dead.name} is up`);
  else announce(not.size ? "warn" : "good", `Serving, ${standing}`);
  const { host, version } = gateways.at(-1).last.body.gateway;
  say($("identity"), `${gateways.length > 1 ? `${gateways.length} gateways` : host} · ${version}`);
  return servers.length;
}

/** Said aloud by screen readers, and only when it changes. */
function announce(name, words) {
  tone($("state"), name);
  say($("state"), words);
  const title = name === "good" || name === "none" ? "infinity-gateway" : `${words} · infinity-gateway`;
  if (document.title !== title) document.title = title;
}

// The key, and the round

const KEPT = "infinity-gateway key";
let key = sessionStorage.getItem(KEPT) ?? "";
let paused = false, timer = 0, waitMs = EVERY_MS, round = 0;
const heard = new Map(); // gateways by id

function askForKey(problem) {
  announce("none", "Waiting for a key");
  $("board").hidden = true;
  $("pause").hidden = $("forget").hidden = true;
  say($("identity"), "");
  heard.clear();
  lines.clear();
  if ($("key-form").hidden) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  say($("key-problem"), problem);
  $("key").setAttribute("aria-invalid", String(Boolean(problem)));
  if (problem) $("key").select();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  if (key) ask();
});
$("forget").addEventListener("click", () => {
  key = "";
  sessionStorage.removeItem(KEPT);
  $("key").value = "";
  ask();
});
$("pause").addEventListener("click", () => {
  paused = !paused;
  say($("pause"), paused ? "Resume" : "Pause");
  if (paused) {
    round += 1; // what is under way counts no more
    clearTimeout(timer);
    announce("none", "Paused");
  } else ask();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && !paused && $("key-form").hidden) ask();
});

async function ask() {
  clearTimeout(timer);
  const mine = (round += 1);
  let answer, body;
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    answer = await fetch("status", { headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    body = await answer.json();
  } catch (error) {
    // No header can carry such a key.
    if (error instanceof TypeError && !/^[\x20-\xff]*$/.test(key)) answer = { status: 401 };
  }
  if (mine !== round) return;
  if (answer?.status === 401 || answer?.status === 403) {
    sessionStorage.removeItem(KEPT);
    const wrong = answer.status === 403 ? "This key is for some models, and this page shows all: it takes one that is for all."
      : "This key is not valid here.";
    askForKey(key ? wrong : "");
    return;
  }
  if (answer?.status === 200 && body?.gateway) {
    waitMs = EVERY_MS;
    if (key) sessionStorage.setItem(KEPT, key);
    $("key-form").hidden = true;
    $("key").value = "";
    $("forget").hidden = !key;
    $("pause").hidden = false;
    const now = performance.now() / 1000, { id } = body.gateway;
    const gateway = heard.get(id) ?? new Gateway();
    gateway.take(body, now);
    heard.delete(id);
    heard.set(id, gateway); // the latest stands last
    for (const [other, { last }] of heard) if (last.at < now - GONE_S) heard.delete(other);
    if (show([...heard.values()]) > MANY) waitMs = EVERY_MANY_MS;
  } else {
    document.body.classList.add("stale");
    const at = [...heard.values()].at(-1)?.last.wall;
    announce("bad", answer ? `The gateway answers with status ${answer.status}` : "The gateway does not answer");
    say($("identity"), at ? `last answer at ${at}` : "");
    waitMs = Math.min(2 * waitMs, AGAIN_MS_MAX);
  }
  if (!document.hidden) timer = setTimeout(ask, waitMs);
}

ask();
