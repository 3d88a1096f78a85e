// One event of a run as one line of the log: when, what kind, what happened.
import { h, sign } from "./dom.js";
import { duration, instant } from "./format.js";
import { asText, block, folded, foreign, titled } from "./log_text.js";
import { callParts } from "./log_call.js";

/**
 * Make the line of an event. An agent_start needs `about.attempt`, a stop_observed `about.mode` of the
 * stop; unknown types show all their data.
 */
export function lineOf(event, about = {}) {
  const { kind, mark, parts, below = [], tone = "", data = {} } = (WRITERS[event.type] ?? unknown)(event.data, event, about);
  return h("div", { class: tone ? `line ${tone}` : "line", dataset: { seq: event.seq, type: event.type, ...data } },
    h("time", { class: "line-time", datetime: event.ts }, timeOf(event.ts)),
    h("span", { class: "line-kind" }, mark && sign(mark), kind),
    h("div", { class: "line-body" }, parts && h("p", { class: "line-text" }, separated(parts)), below));
}

/** Put " · " between the parts, without the empty ones. */
export function separated(parts) {
  return parts.filter(Boolean).flatMap((part, index) => (index ? [" · ", part] : [part]));
}

const WRITERS = {
  agent_start: (data, event, { attempt = 1 }) => ({
    kind: "Start",
    parts: [attempt > 1 ? `Started again (attempt ${attempt})` : "Started"],
    tone: "line-system",
  }),
  agent_end: (data) => ({
    kind: "End",
    parts: [
      ENDS[data.status] ?? asText(data.status),
      data.finished_first && "a stop was asked for, but the work was done",
      data.events_dropped && `${data.events_dropped} events were left out`,
    ],
    tone: "line-system",
  }),
  llm_call: call,
  data_store: call,
  http: call,
  agent_call: call,
  process: call,
  log,
  stdout: (data) => ({
    kind: data.stream === "stderr" ? "stderr" : "Output",
    below: block(asText(data.text).replace(/\n$/, ""), "log-output"),
    data: { stream: data.stream ?? "stdout" },
  }),
  error: (data) => ({
    kind: "Error",
    mark: "error",
    parts: [[h("span", { class: "line-bad" }, asText(data.type) || "Error"), ": ", foreign(data.message)]],
    below: traceback(data),
    tone: "line-error",
  }),
  limit_near: (data) => ({
    kind: "Limit",
    parts: [`It may go on for ${duration((data.limit ?? 0) - (data.value ?? 0))}, of ${duration(data.limit ?? 0)}`],
    tone: "line-warning",
  }),
  loop_blocked: loopBlocked,
  truncated: (data) => ({
    kind: "Warning",
    parts: [data.quota
      ? "Its owner has stored too much: the rest of the log is left out"
      : `The log is full: after ${data.max_events} events the rest is left out`],
    tone: "line-warning",
  }),
  stop_requested: (data) => ({ kind: "Stop", mark: "stop", parts: [stopRequested(data)], tone: "line-stop" }),
  stop_observed: (data, event, about) => ({
    kind: "Stop", mark: "stop", parts: [stopObserved(data, about.mode)], tone: "line-stop",
  }),
};

const ENDS = { success: "Finished", stopped: "Stopped", error: "Ended with an error" };

function call(data, event) {
  return { ...callParts(event.type, data), data: { outcome: data.outcome } };
}

function log(data) {
  const level = String(data.level ?? "info");
  const message = asText(data.message);
  const isBad = level === "error" || level === "critical";
  const isShort = message.length <= 400 && !message.includes("\n");
  const logger = data.logger && h("span", { class: "line-logger" }, foreign(data.logger));
  return {
    kind: isBad || level === "warning" ? level[0].toUpperCase() + level.slice(1) : "Log",
    parts: isShort ? [[foreign(message), logger && [" ", logger]]] : logger ? [logger] : null,
    below: [isShort ? null : block(message), traceback(data)],
    tone: isBad ? "line-error" : level === "warning" ? "line-warning" : level === "debug" ? "line-system" : "",
    data: { level },
  };
}

function traceback(data) {
  return data.traceback ? titled("Traceback", asText(data.traceback)) : null;
}

function loopBlocked(data) {
  const time = duration((data.blocked_ms ?? 0) / 1000);
  const where = (data.where ?? []).map(asText);
  return {
    kind: "Warning",
    parts: [
      data.is_over ? `It held up all agents for ${time}` : `It holds up all agents, for ${time} so far`,
      where.length > 0 && ["at ", foreign(where.at(-1))],
    ],
    below: where.length > 1 ? titled("Where", where.join("\n")) : null,
    tone: "line-warning",
  };
}

function stopRequested(data) {
  if (data.escalated_at) return stopHardened(data);
  if (data.mode === "abandon") return ["Given up", data.requested_by && [" by ", foreign(data.requested_by)]];
  const by = data.requested_by && [" by ", foreign(data.requested_by)];
  const reason = asText(data.reason).trim();
  const because = reason && [": ", foreign(reason)];
  if (data.via === "budget") return [REACHED[data.limit?.kind]?.(data.limit) ?? ["Stop asked for by its budget", because]].flat();
  if (data.via === "account") return ["Stop asked for, because its owner's account was deactivated"];
  const withParent = data.via === "parent" && ", with the run that called it";
  const how = data.mode === "abort" && ", cutting the calls in flight";
  return ["Stop asked for", by, withParent, how, because];
}

// As runs/wording/limits.py says it.
const REACHED = {
  wall: ({ scope, limit }) => `${scope === "tree" ? "A run above it" : "It"} reached its deadline of ${seconds(limit)}`,
  idle: ({ limit }) => `It showed no sign of life for ${seconds(limit)}`,
};

function seconds(limit) {
  return limit < 120 ? `${limit} s` : duration(limit);
}

function stopHardened(data) {
  const what = data.mode === "abandon" ? "Given up" : "From here on calls in flight are cut";
  return [what, data.escalated_by && [", asked for by ", foreign(data.escalated_by)], data.planned && ", as planned"];
}

function stopObserved(data, mode) {
  const label = data.label ? [": ", foreign(data.label)] : null;
  const tool = asText(data.tool).replace(/^data_store.*/, "data_store");
  const effect = (mode === "abort" && CUTS[tool]) || EFFECTS[tool];
  return effect ? [`Stop took effect${effect}`, label] : ["Stop took effect: the agent has noticed it"];
}

const EFFECTS = {
  call_llm: ": the next LLM call was not made",
  http: ": the next HTTP request was not made",
  data_store: ": the next data store call was not made",
  "agents.call": ": the next agent was not called",
  "agents.start": ": the next agent was not started",
  "agents.wait": " while it waited for an agent",
};

// The call in flight was cut, or the next one was not made: the line of the call says which.
const CUTS = {
  call_llm: " at an LLM call",
  http: " at an HTTP request",
  abort: ": its code was interrupted",
};

function unknown(data, event) {
  return {
    kind: "Event",
    parts: [foreign(event.type)],
    below: Object.keys(data ?? {}).length ? titled("Details", asText(data)) : null,
  };
}

let lastSecond = "";
let lastTime = "";

/** Formatting is slow, and most events share their second with the one before. */
function timeOf(iso) {
  const second = iso.slice(0, 19);
  if (second !== lastSecond) {
    lastSecond = second;
    lastTime = instant(iso);
  }
  return lastTime;
}
