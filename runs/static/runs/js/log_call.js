// Calls in words: to models, the data store, over HTTP, of other agents; over or in flight.
import { h } from "./dom.js";
import { duration, short } from "./format.js";
import { asText, folded, foreign, titled } from "./log_text.js";

const NOTEWORTHY = 100; // ms; a call to the data store that takes less shows no duration

/** Say a call that is over: {kind, parts, below, tone} of its line. */
export function callParts(type, data) {
  const took = duration((data.duration_ms ?? 0) / 1000);
  const { kind, parts, below } = CALLS[type](data, took);
  const [outcome, tone] = OUTCOMES[data.outcome] ?? ["", ""];
  return {
    kind,
    parts: [...parts, outcome && h("span", { class: "line-outcome" }, outcome), errorOf(data)],
    below,
    tone,
  };
}

/** Say a call in flight: {kind, parts}. */
export function inFlightParts({ tool, label }) {
  if (tool === "call_llm") return { kind: "LLM", parts: [foreign(label)] };
  if (tool === "http") return { kind: "HTTP", parts: [foreign(label)] };
  if (tool === "agents.start") return { kind: "Agent", parts: [["starting ", foreign(label)]] };
  if (tool === "agents.call" || tool === "agents.wait") return { kind: "Agent", parts: [foreign(label)] };
  if (WORK[tool]) return { kind: WORK[tool], parts: [foreign(label)] };
  const [store, method] = String(tool).split(".");
  if (store === "data_store") return { kind: "Store", parts: [[METHODS[method]?.[0] ?? method, " ", foreign(label)]] };
  return { kind: "Call", parts: [[foreign(tool), " ", foreign(label)]] };
}

const WORK = { thread: "Thread", task: "Task", process: "Process" }; // code of the agent's

const CALLS = {
  llm_call: (data, took) => ({
    kind: "LLM",
    parts: [foreign(data.label || data.model), took, tokens(data), askedFor(data.tool_calls)],
    below: [data.text && folded(asText(data.text)), toolCalls(data.tool_calls)],
  }),
  data_store: (data, took) => ({
    kind: "Store",
    parts: [stored(data), data.duration_ms >= NOTEWORTHY && took],
  }),
  http: (data, took) => ({
    kind: "HTTP",
    parts: [foreign(data.label || `${data.method} ${data.host}`), data.status && String(data.status), took],
  }),
  agent_call: (data, took) => ({
    kind: "Agent",
    parts: [foreign(data.label), data.tool === "agents.start" ? "started" : took],
  }),
  process: (data, took) => ({
    kind: "Process",
    parts: [foreign(data.label), took, data.returncode && `exited with ${data.returncode}`],
  }),
};

const METHODS = { // in flight, over
  get: ["reading", "read"], get_many: ["reading", "read"], get_all: ["reading all of", "read all of"],
  set: ["storing", "stored"], set_many: ["storing", "stored"],
  delete: ["deleting", "deleted"], delete_many: ["deleting", "deleted"], clear: ["clearing", "cleared"],
  list_keys: ["listing", "listed"], list_namespaces: ["listing the namespaces", "listed the namespaces"],
};

function stored(data) {
  const method = asText(data.tool).split(".").at(-1);
  const count = data.keys_count;
  const many = count === undefined ? "" : `${count} ${count === 1 ? "key" : "keys"} in `;
  return [METHODS[method]?.[1] ?? method, " ", many, foreign(data.label)];
}

function tokens(data) {
  if (data.input_tokens === undefined) return null;
  const about = data.estimated ? "~" : "";
  return `${about}${short(data.input_tokens)} in / ${short(data.output_tokens)} out`;
}

function askedFor(calls) {
  if (!calls?.length) return null;
  return `asks for ${calls.length === 1 ? "1 tool" : `${calls.length} tools`}`;
}

function toolCalls(calls) {
  return calls?.length ? titled("Tool calls", asText(calls)) : null;
}

const OUTCOMES = {
  error: ["failed", "line-failed"], stopped: ["stopped", "line-cut"], aborted: ["cut off", "line-cut"],
};

function errorOf(data) {
  if (!data.error) return null;
  return [foreign(data.error.type), data.error.message ? [": ", foreign(data.error.message)] : null];
}
