// The server's API, as far as this page asks for it. The key stays in this tab.

const KEY = "gptoss.key";
let key = keptKey();

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function keptKey() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // no storage here
  }
}

export function setKey(given) {
  key = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // then it is asked for again when the page is loaded again
  }
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it running? Try again in a moment.", 0);
  }
  if (!response.ok) throw new ApiError(await faultOf(response), response.status);
  return response;
}

async function faultOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

export async function json(path) {
  return (await call(path)).json();
}

/** Ask, and yield each chunk's document. Throws ApiError, and AbortError once `signal` fires. */
export async function* chat(body, signal) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  const response = await call("/v1/chat/completions", options);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, chunk.error.code);
      yield chunk;
    }
  } catch (error) {
    // a lost connection is a TypeError in words that differ from browser to browser
    if (!(error instanceof TypeError)) throw error;
  }
  throw new ApiError("The answer broke off: the connection ended before the server was done. Retry asks again.", 0);
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (kept + value).split("\n\n");
    kept = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}
