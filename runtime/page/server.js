// The server's endpoints. A token, where the server asks for one, is kept for this tab.

const TOKEN = "mask2edge-token";

export class ServerError extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export const info = () => ask("info");

export const segment = (image, query, signal) => ask(`segment?${query}`, { method: "POST", body: image, signal });

export const frame = (query, signal) => ask(`live?${query}`, { signal });

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw new ServerError(answer.status, content.error);
  return content;
}
