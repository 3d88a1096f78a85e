// Ask the server. Errors have the API's one shape: {code, detail, fields?}.

export class RequestFailed extends Error {
  /** `code` is the API's, or "offline" without an answer. */
  constructor(code, detail, { status = 0, fields = {} } = {}) {
    super(detail);
    this.code = code;
    this.status = status;
    this.fields = fields;
  }
}

function cookie(name) {
  const found = document.cookie.split("; ").find((one) => one.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

/** The header with the CSRF token. The cookie is newer than this page if the reader has signed in again. */
export function csrfHeaders() {
  const { content, dataset } = document.querySelector("meta[name=csrf-token]");
  return { [dataset.header]: cookie(dataset.cookie) || content };
}

/** POST JSON and return the answer's JSON. Throws RequestFailed. */
export function post(address, body = {}, headers = {}) {
  return ask(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...csrfHeaders(), ...headers },
    body: JSON.stringify(body),
  });
}

/** An Idempotency-Key: a request that is repeated with it starts one run. */
export function newKey() {
  // crypto.randomUUID() is missing without TLS.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** GET JSON. Throws RequestFailed. */
export function get(address) {
  return ask(address);
}

async function ask(address, options = {}) {
  const response = await send(address, { ...options, headers: { Accept: "application/json", ...options.headers } });
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  throw failed(response, body);
}

/** GET HTML of our own server, which has escaped it. Throws RequestFailed. */
export async function getFragment(address) {
  const response = await send(address, { headers: { Accept: "text/html" } });
  if (!response.ok) throw failed(response, null);
  const template = document.createElement("template");
  template.innerHTML = await response.text();
  return template.content;
}

async function send(address, options) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", redirect: "manual", ...options });
  } catch {
    throw new RequestFailed("offline", "The server can't be reached.");
  }
  // A reader who is signed out is sent to a sign-in page, perhaps of another host. No address that
  // scripts ask redirects to anything else.
  if (response.type === "opaqueredirect") {
    throw new RequestFailed("not_authenticated", "You are signed out.", { status: 401 });
  }
  return response;
}

function failed(response, body) {
  const detail = body?.detail ?? `The server answered ${response.status}.`;
  return new RequestFailed(body?.code ?? "server_error", detail, { status: response.status, fields: body?.fields ?? {} });
}
