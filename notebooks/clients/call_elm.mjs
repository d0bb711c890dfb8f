// Ask ELM from JavaScript: `node call_elm.mjs`. `fetch` is built into Node and browsers; a browser must not hold the key.
const url = process.env.ELM_URL ?? "http://127.0.0.1:8000";
const key = process.env.ELM_API_KEY;
const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
const body = JSON.stringify({ inputs: "Find wireless headphones under $100", parameters: { max_new_tokens: 100 } });

const answer = await fetch(url, { method: "POST", headers, body, signal: AbortSignal.timeout(60_000) });
if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
const [{ generated_text }] = await answer.json();
console.log(generated_text);
