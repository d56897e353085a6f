// Calls at a constant rate, whether or not earlier ones were answered. Run by arrivals.py.
import exec from "k6/execution";
import http from "k6/http";
import { SharedArray } from "k6/data";

const bodies = new SharedArray("bodies", () => JSON.parse(open(__ENV.BODIES)));
const warmUp = Number(__ENV.WARM_UP);
const arrivals = {
  executor: "constant-arrival-rate",
  rate: Math.round(Number(__ENV.RATE) * 60),
  timeUnit: "60s",
  preAllocatedVUs: Number(__ENV.CALLERS),
  gracefulStop: "30s",
};

export const options = {
  discardResponseBodies: true,
  scenarios: {
    warm_up: { ...arrivals, duration: `${warmUp}s` },
    measured: { ...arrivals, startTime: `${warmUp}s`, duration: `${__ENV.SECONDS}s` },
  },
  summaryTrendStats: ["p(50)", "p(95)", "p(99)", "count"],
  // A threshold that always holds makes k6 keep the metric of one scenario alone.
  thresholds: {
    "iteration_duration{scenario:measured}": ["max>=0"],
    "http_req_failed{scenario:measured}": ["rate>=0"],
    "dropped_iterations{scenario:measured}": ["count>=0"],
  },
};

export default function () {
  const turn = exec.scenario.iterationInTest + (exec.scenario.name === "measured" ? 0 : bodies.length / 2);
  http.post(__ENV.URL, bodies[turn % bodies.length], { headers: { "Content-Type": "application/json" } });
}

export const handleSummary = (data) => ({ stdout: JSON.stringify(data.metrics) });
